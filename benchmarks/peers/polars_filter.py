"""Quality statistics and filters as Polars expressions: FILE OUT [n-grams].

Statistics and rules are those of Gopher, C4 and FineWeb as far as regular expressions and lists say them. A word is a
run of \\w. Gopher's rules about repeated n-grams, which no regular expression can count, are asked with `n-grams` only:
of hashes of words, by the share of n-grams instead of their characters.
"""

from __future__ import annotations

import sys

import polars as pl

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
POLICY = "terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies"

text = pl.col("text")
lines = text.str.split("\n").list.eval(pl.element().filter(pl.element().str.contains(r"\S")))
words = text.str.extract_all(r"\w+|[^\w\s]+")
paragraphs = text.str.split("\n\n")


def matches(pattern: str) -> pl.Expr:
    return text.str.count_matches(pattern)


def n_grams(n: int) -> pl.Expr:
    """Hashes of the n-grams of words and marks."""
    hashed = pl.element().hash()
    return words.list.eval(
        pl.sum_horizontal(*(hashed.shift(-k) * (2 * k + 1) for k in range(n))).head(pl.len() - n + 1)
    )


def repeated(parts: pl.Expr) -> pl.Expr:
    return 1 - parts.list.n_unique() / parts.list.len()


STATISTICS = {
    "characters": text.str.len_chars(),
    "words": matches(r"\w+"),
    "word_characters": matches(r"\w"),
    "marks": matches(r"[^\w\s]+"),
    "number_signs": matches("#"),
    "ellipses": matches(r"\.\.\.|\x{2026}"),
    "lines": matches(r"(?m)^.*\S.*$"),
    "newlines": matches("\n"),
    "bullet_lines": matches(r"(?m)^\s*[-\x{2022}]"),
    "ellipsis_lines": matches(r"(?m)(\.\.\.|\x{2026})\s*$"),
    "alphabetic_words": matches(r"\w*\p{L}\w*"),
    "stop_words": pl.sum_horizontal(text.str.contains(rf"\b{word}\b").cast(pl.Int64) for word in STOP_WORDS),
    "duplicate_lines": repeated(lines),
    "duplicate_paragraphs": repeated(paragraphs),
    "terminal_lines": matches(r"(?m)[.?!\x{3002}\x{ff01}\x{ff1f}]$"),
    "short_lines": matches(r"(?m)^\s*\S.{0,28}$"),
    "sentence_lines": matches(r"""(?m)^.*\S+\s+\S+\s+\S*[.?!"']$"""),
    "sentences": matches(r"[.?!]\s"),
    "curly": text.str.contains(r"\{"),
    "lorem": text.str.contains(r"(?i)lorem ipsum"),
    "javascript": matches(r"(?im)^.*javascript.*$"),
    "policy": matches(rf"(?im)^.*({POLICY}).*$"),
}
TOP = {f"top_{n}": n_grams(n).list.eval(pl.element().unique_counts().max()).list.first() for n in (2, 3, 4)}
DUPLICATE = {f"duplicate_{n}": repeated(n_grams(n)) for n in range(5, 11)}
tokens, nonblank = pl.col("words") + pl.col("marks"), pl.col("lines")
RULES = [
    pl.col("words").is_between(50, 100_000),
    (pl.col("word_characters") / pl.col("words")).is_between(3, 10),
    pl.col("number_signs") / tokens <= 0.1,
    pl.col("ellipses") / tokens <= 0.1,
    pl.col("bullet_lines") / nonblank <= 0.9,
    pl.col("ellipsis_lines") / nonblank <= 0.3,
    pl.col("alphabetic_words") / tokens >= 0.8,
    pl.col("stop_words") >= 2,
    pl.col("duplicate_lines") <= 0.3,
    pl.col("duplicate_paragraphs") <= 0.3,
    ~pl.col("curly"),
    ~pl.col("lorem"),
    pl.col("sentences") >= 5,
    pl.col("terminal_lines") / nonblank >= 0.12,
    pl.col("short_lines") / nonblank <= 0.67,
    pl.col("newlines") / tokens <= 0.3,
]
N_GRAM_RULES = [
    *(pl.col(f"top_{n}") * n / tokens <= most for n, most in ((2, 0.2), (3, 0.18), (4, 0.16))),
    *(pl.col(f"duplicate_{n}") <= 0.2 - n / 100 for n in range(5, 11)),
]


def main(file: str, out: str, extra: str = "") -> None:
    measured = pl.scan_parquet(file).select(**STATISTICS, **({**TOP, **DUPLICATE} if extra else {}))
    judged = measured.with_columns(kept=pl.all_horizontal(RULES + (N_GRAM_RULES if extra else [])))
    judged.sink_parquet(out, compression="zstd")


if __name__ == "__main__":
    main(*sys.argv[1:])
