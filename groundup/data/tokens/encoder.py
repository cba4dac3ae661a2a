"""Turning many texts into ids at once: by fastokens, with `tokenizers` as the reference that it is checked against."""

from __future__ import annotations

from functools import cache, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, models, pre_tokenizers
from tokenizers import Tokenizer as HfTokenizer

from groundup.data.tokens.split import byte_characters
from groundup.data.tokens.tokenizer import Tokenizer
from groundup.environment import environment

Engine = Literal["fastokens", "tokenizers"]
# Scripts, digits, contractions, marks, white space of all kinds, a character outside the basic plane, a combining mark.
_PROBE = (
    "It's 12345 o'clock;  DON'T stop!\r\n\r\n\tcamelCaseWord = snake_case[0]  # 50%\n\n   indented\n"
    "Größe, naïve, e\u0301galite\u0301, Ελλάδα, Привет мир, שלום, مرحبا ١٢٣, हिन्दी में, ภาษาไทย, 한국어 문장, "
    "日本語の文字とカタカナ。中文字符\uff0c标点“引号”和数字\uff12\uff10\uff12\uff14年\u3000\u2003\U0001d518\U0001d52b"
    "\U0001d526 😀👩\u200d👩\u200d👧 🎉!\u00a0\u200b\ufeff\n"
)

# fastokens reads how many threads it may have when it first encodes.
_ONE_THREAD = {"FASTOKENS_BPE_THREADS": "1", "RAYON_NUM_THREADS": "1"}


class Encoder:
    """A tokenizer that encodes batches in one thread.

    `engine` is the one asked for; a tokenizer that fastokens can't load, or encodes otherwise than `tokenizers` on a
    fixed text of many scripts, is left to `tokenizers` whole, and `fallback` says why. `name` is what encodes, with its
    version, `unicode` the version of Unicode it goes by. The choice depends on the tokenizer alone, so all processes
    make the same.
    """

    def __init__(self, tokenizer: Tokenizer, engine: Engine = "fastokens") -> None:
        self.tokenizer = tokenizer
        self.reference = f"tokenizers {version('tokenizers')}"
        self.fast: Any = None
        self.fallback: str | None = None
        if engine == "fastokens":
            with environment(_ONE_THREAD):
                self.fallback = self._load()
        self.name = self.reference if self.fast is None else f"fastokens {version('fastokens')}"
        self.unicode = unicode_version("tokenizers" if self.fast is None else "fastokens")

    def _load(self) -> str | None:
        import fastokens  # type: ignore[import-untyped]

        try:
            fast = fastokens.Tokenizer.from_json_str(self.tokenizer.content.decode())
            fast.no_truncation()
            fast.no_padding()
        except Exception as error:  # it raises plain ValueError and others for what it does not know
            return f"fastokens can't load this tokenizer: {error}"
        added = self.tokenizer.inner.get_added_tokens_decoder().values()
        probes = [_PROBE, " ".join(["x", *(token.content for token in added), "y"]), _PROBE * 128]
        self.fast = fast
        for probe in probes:
            if self.encode([probe])[0].tolist() != self.tokenizer.encode(probe):
                self.fast = None
                return "fastokens encodes a text with this tokenizer otherwise than tokenizers does"
        return None

    def encode(self, texts: list[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """(ids of all texts in a row, offsets int64 [len(texts) + 1]), without start and end tokens."""
        if self.fast is not None:
            ids, offsets = self.fast.encode_batch_flat(texts, split_special_tokens=True)
            return np.frombuffer(ids, "<u4"), np.frombuffer(offsets, "<u8").astype(np.int64)
        rows = [np.array(self.tokenizer.encode(text), np.uint32) for text in texts]
        lengths = np.array([0, *(len(row) for row in rows)], np.int64)
        return np.concatenate([np.empty(0, np.uint32), *rows]), np.cumsum(lengths)


# A letter that each version of Unicode was the first to have. All begin with the same byte of UTF-8.
_FIRST_OF = {
    "17.0": "\U000323b0",
    "16.0": "\U00010d4a",
    "15.1": "\U0002ebf0",
    "15.0": "\U00031350",
    "14.0": "\U00010570",
    "13.0": "\U00030000",
    "12.0": "\U000119a0",
    "11.0": "\U00010d00",
    "10.0": "\U0002ceb0",
}


@cache
def unicode_version(engine: Engine) -> str:
    """The version of Unicode by which an encoder tells letters, which it doesn't say itself: the last of which it knows
    a letter. "before 10.0" where it knows none."""
    characters = byte_characters()
    vocabulary = {character: byte for byte, character in enumerate(characters)}
    lead = characters[0xF0]
    inner = HfTokenizer(models.BPE({**vocabulary, f"a{lead}": len(vocabulary)}, [("a", lead)]))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{L}+"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    if engine == "fastokens":
        import fastokens

        encode = fastokens.Tokenizer.from_json_str(inner.to_str()).encode
    else:
        encode = inner.encode
    for name, letter in _FIRST_OF.items():
        # "a" and the letter's first byte are merged only where both are letters, and so one word.
        if len(encode(f"a{letter}").ids) == len(letter.encode()):
            return name
    return "before 10.0"


@lru_cache(maxsize=1)
def encoder_of(folder: Path, sha256: str, engine: Engine = "fastokens") -> Encoder:
    """The encoder of a tokenizer's folder, kept for the next shard: making one of a large vocabulary takes a second."""
    tokenizer = Tokenizer(folder)
    assert tokenizer.sha256 == sha256, "the tokenizer was changed while it was used"
    return Encoder(tokenizer, engine)
