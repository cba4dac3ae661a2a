"""Where each key of a TOML document stands, which tomllib does not tell.

The document is known to be valid (tomllib has read it), so this scanner only has to find keys, not to judge.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field

Path = tuple[str | int, ...]

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\n]+")


@dataclass(frozen=True)
class Position:
    """Line and column, both from 1, of a key and of its value."""

    line: int
    column: int
    value_line: int
    value_column: int


@dataclass
class _Scanner:
    text: str
    at: int = 0
    found: dict[Path, Position] = field(default_factory=dict)
    arrays: dict[Path, int] = field(default_factory=dict)  # arrays of tables: index of the last one

    def place(self, at: int) -> tuple[int, int]:
        return self.text.count("\n", 0, at) + 1, at - (self.text.rfind("\n", 0, at) + 1) + 1

    def skip(self, newlines: bool) -> None:
        """Pass white space and comments."""
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == "#":
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
            elif char in " \t\r" or (newlines and char == "\n"):
                self.at += 1
            else:
                return

    def string_end(self) -> int:
        """The index behind the string that begins here."""
        quote = self.text[self.at]
        if self.text.startswith(quote * 3, self.at):
            at = self.at + 3
            while not self.text.startswith(quote * 3, at):
                at += 2 if quote == '"' and self.text[at] == "\\" else 1
            at += 3
            while at < len(self.text) and self.text[at] == quote:  # up to two quotes may stand before the closing ones
                at += 1
            return at
        at = self.at + 1
        while self.text[at] != quote:
            at += 2 if quote == '"' and self.text[at] == "\\" else 1
        return at + 1

    def key(self) -> Path:
        """A dotted key; stops behind it."""
        parts: list[str] = []
        while True:
            self.skip(newlines=False)
            if self.text[self.at] in "\"'":
                end = self.string_end()
                parts.append(tomllib.loads("k = " + self.text[self.at : end])["k"])
            else:
                match = _BARE.match(self.text, self.at)
                assert match is not None
                parts.append(match.group())
                end = match.end()
            self.at = end
            self.skip(newlines=False)
            if self.text[self.at] != ".":
                return tuple(parts)
            self.at += 1

    def resolve(self, path: Path) -> Path:
        """The path with the current index put in behind each array of tables it passes."""
        full: Path = ()
        for part in path:
            full += (part,)
            if full in self.arrays:
                full += (self.arrays[full],)
        return full

    def record(self, path: Path, key_at: int, value_at: int) -> None:
        self.found.setdefault(path, Position(*self.place(key_at), *self.place(value_at)))

    def record_table(self, path: Path, at: int) -> None:
        """A header makes every table on its path that is not there yet."""
        for depth in range(1, len(path) + 1):
            self.record(path[:depth], at, at)

    def pair(self, table: Path) -> None:
        start = self.at
        path = table + self.key()
        self.at += 1  # the equals sign
        self.skip(newlines=False)
        for depth in range(len(table) + 1, len(path)):
            self.record(path[:depth], start, start)
        self.record(path, start, self.at)
        self.value(path)

    def value(self, path: Path) -> None:
        char = self.text[self.at]
        if char in "\"'":
            self.at = self.string_end()
        elif char == "[":
            self.sequence("]", path)
        elif char == "{":
            self.sequence("}", path)
        else:
            match = _SCALAR.match(self.text, self.at)
            assert match is not None
            self.at = match.end()

    def sequence(self, close: str, path: Path) -> None:
        """The items of an array, or the pairs of an inline table."""
        self.at += 1
        index = 0
        while True:
            self.skip(newlines=True)
            if self.text[self.at] == close:
                self.at += 1
                return
            if self.text[self.at] == ",":
                self.at += 1
            elif close == "}":
                self.pair(path)
            else:
                self.record((*path, index), self.at, self.at)
                self.value((*path, index))
                index += 1

    def run(self) -> None:
        table: Path = ()
        while True:
            self.skip(newlines=True)
            if self.at >= len(self.text):
                return
            start = self.at
            if self.text.startswith("[[", self.at):
                self.at += 2
                path = self.key()
                array = self.resolve(path[:-1]) + path[-1:]
                self.arrays[array] = self.arrays.get(array, -1) + 1
                table = (*array, self.arrays[array])
                self.record_table(table, start)
                self.at += 2
            elif self.text[self.at] == "[":
                self.at += 1
                table = self.resolve(self.key())
                self.record_table(table, start)
                self.at += 1
            else:
                self.pair(table)


def scan(text: str) -> dict[Path, Position]:
    """Key path -> position for every key, array item and table of a valid TOML document."""
    scanner = _Scanner(text.replace("\r\n", "\n"))
    scanner.run()
    return scanner.found


def first_key(text: str) -> Path:
    """The path of the dotted key that a valid document begins with."""
    return _Scanner(text).key()
