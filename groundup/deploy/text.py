"""From tokens to text while they come: whole characters only, and nothing past a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

# What an unfinished UTF-8 character decodes to: one mark; with byte-fallback tokenizers one for each of its
# bytes.
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"
_LONGEST_UNFINISHED = 3
# The end of the prompt is decoded along: some tokenizers write a token differently at the start of a text.
_PROMPT_TOKENS = 8


class Detokenizer:
    """Text of the tokens given so far, piece by piece. Special tokens have no text.

    A piece never ends within a character. Bytes that are no UTF-8 become U+FFFD, as in decoding at once.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        # Decoded again with each token: from the last place but one where the text ended with a whole
        # character.
        self._window = list(prompt_ids[-_PROMPT_TOKENS:])
        self._whole = len(self._window)
        self._given = _whole_length(self._decode())

    def add(self, token: int) -> str:
        """The text that became certain with this token; often one word, sometimes nothing."""
        self._window.append(token)
        text = self._decode()
        length = _whole_length(text)
        piece = text[self._given : length]
        self._given = max(self._given, length)
        if length == len(text):
            del self._window[: self._whole]
            self._whole = len(self._window)
            self._given = len(self._decode())
        return piece

    def finish(self) -> str:
        """What was held back: the marks of a character that will not be completed."""
        text = self._decode()
        piece = text[self._given :]
        self._given = len(text)
        return piece

    def _decode(self) -> str:
        return str(self._tokenizer.decode(self._window, skip_special_tokens=True))


def _whole_length(text: str) -> int:
    """Length of the text without the marks at its end that a coming byte could turn into a character."""
    marks = len(text) - len(text.rstrip(_UNFINISHED))
    return len(text) - min(marks, _LONGEST_UNFINISHED)


class StopStrings:
    """Passes text on up to the first of the stop strings, which may begin in one piece and end in another."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""

    def add(self, piece: str) -> tuple[str, bool]:
        """The text that can go out, and whether a stop string was reached; that and the rest are dropped."""
        text = self._held + piece
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self._held = ""
            return text[: min(found)], True
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def finish(self) -> str:
        """What was held back because a stop string could have begun there."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`, the whole of it excepted."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
