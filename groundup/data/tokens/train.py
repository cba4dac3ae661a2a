"""Training a tokenizer: byte-level BPE by rustbpe, written as a Hugging Face folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import rustbpe  # type: ignore[import-untyped]
from tokenizers import Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as HfTokenizer

from groundup.console import say
from groundup.data.tokens.split import GPT2, byte_characters, pattern_of
from groundup.data.tokens.tokenizer import CHAT_TEMPLATE, END_OF_TEXT, SPECIAL_TOKENS, Tokenizer
from groundup.environment import environment
from groundup.errors import UserError

# rustbpe counts in signed integers of 32 bits and wraps around silently; a pair can't be more frequent than bytes are.
MAX_TRAINING_BYTES = 2_000_000_000
# Its regular expressions stop at a million steps back, which a longer text without a line end might need.
_PIECE_CHARS = 16_384
_PIECES_AT_ONCE = 512

Merge = tuple[bytes, bytes]


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, max_bytes: int, folder: Path, split: str = "gpt4"
) -> Tokenizer:
    """Byte-level BPE with `vocab_size` entries, special ones included, written to `folder`.

    The first `max_bytes` of `texts` (at most 2 GB) are used. `split`: a name in split.PATTERNS, or a regular
    expression. There are fewer entries where the text has too few different pairs. Raises UserError where the
    expression is wrong.
    """
    pattern = pattern_of(split)
    pre_tokenizer = _pre_tokenizer(pattern)
    trainer = rustbpe.Tokenizer()
    pieces = _pieces(texts, min(max_bytes, MAX_TRAINING_BYTES))
    try:
        # rustbpe reads how many threads it may have when it first trains. Little else runs then, so it needn't keep to
        # the one thread of a pool's process; the result doesn't depend on it.
        with environment({"RAYON_NUM_THREADS": str(len(os.sched_getaffinity(0)))}):
            trainer.train_from_iterator(pieces, vocab_size - len(SPECIAL_TOKENS), _PIECES_AT_ONCE, pattern)
    except ValueError as error:
        raise _bad_pattern(error) from None
    except BaseException as error:
        if type(error).__name__ == "PanicException":  # what Rust code raises that gives up while matching
            raise _bad_pattern(error) from None
        raise
    ranks = [(bytes(token), rank) for token, rank in trainer.get_mergeable_ranks()]
    reached = len(ranks) + len(SPECIAL_TOKENS)
    if reached < vocab_size:
        say(f"the training text gives only {reached} entries of tokenizer.vocab_size = {vocab_size}")
    _write(ranks, pre_tokenizer, folder)
    return Tokenizer(folder)


def _bad_pattern(error: BaseException) -> UserError:
    return UserError(
        f"text can't be split by this expression: {error}",
        where="tokenizer.split",
        expected="a name, such as gpt4, or a regular expression that Oniguruma and Rust's fancy-regex know",
    )


def _pre_tokenizer(pattern: str) -> pre_tokenizers.PreTokenizer:
    if pattern == GPT2:
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    try:
        regex = Regex(pattern)
    except Exception as error:  # the library raises plain Exception
        raise _bad_pattern(error) from None
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(regex, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _pieces(texts: Iterable[str], max_bytes: int) -> Iterator[str]:
    """The first `max_bytes` of the texts, in pieces that end with a line where one does."""
    for text in texts:
        start = 0
        while start < len(text):
            end = len(text)
            if end - start > _PIECE_CHARS:
                line = text.rfind("\n", start, start + _PIECE_CHARS)
                end = line + 1 if line > start else start + _PIECE_CHARS
            if max_bytes <= 0:
                return
            piece = text[start:end]
            max_bytes -= len(piece.encode())
            yield piece
            start = end


def merges_of(ranks: Sequence[tuple[bytes, int]]) -> list[Merge]:
    """The pair that each token above the bytes was merged from, in order of rank.

    A token's bytes, merged by the ranks below its own, leave exactly the two tokens it was made from: in the training
    text it stood between boundaries that no earlier merge crossed.
    """
    rank_of = dict(ranks)
    merges = []
    for token, rank in ranks:
        if len(token) == 1:
            continue
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            pair = min(pairwise(parts), key=lambda p: rank_of.get(p[0] + p[1], rank))
            merged, i = [], 0
            while i < len(parts):
                both = tuple(parts[i : i + 2]) == pair
                merged.append(parts[i] + parts[i + 1] if both else parts[i])
                i += 2 if both else 1
            parts = merged
        merges.append((parts[0], parts[1]))
    return merges


def _write(ranks: list[tuple[bytes, int]], pre_tokenizer: pre_tokenizers.PreTokenizer, folder: Path) -> None:
    characters = byte_characters()

    def written(token: bytes) -> str:
        return "".join(characters[byte] for byte in token)

    vocabulary = {token: index for index, token in enumerate(SPECIAL_TOKENS)}
    for token, rank in ranks:
        vocabulary[written(token)] = rank + len(SPECIAL_TOKENS)
    inner = HfTokenizer(models.BPE(vocabulary, [(written(a), written(b)) for a, b in merges_of(ranks)]))
    inner.add_special_tokens(SPECIAL_TOKENS)
    inner.pre_tokenizer = pre_tokenizer
    inner.decoder = decoders.ByteLevel()
    folder.mkdir(parents=True, exist_ok=True)
    inner.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "additional_special_tokens": SPECIAL_TOKENS[1:],
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1))
