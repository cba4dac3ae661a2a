"""The tags of a document: one table of all columns, for the files, the reference and the report."""

from __future__ import annotations

# Columns of `statistics.statistics`: (name, meaning). A ratio or share of nothing is 0.
STATISTICS: list[tuple[str, str]] = [
    ("bytes", "bytes of the text in UTF-8"),
    ("characters", "characters (code points)"),
    ("words", "words; each Han or kana character is one"),
    ("lines", "lines, blank ones included"),
    ("paragraphs", "runs of lines that aren't blank"),
    ("mean_word_length", "characters per word"),
    ("alphabetic_word_fraction", "share of the tokens (words and punctuation marks) with a letter"),
    ("hash_word_ratio", "# signs per token"),
    ("ellipsis_word_ratio", "ellipses (... or \u2026) per token"),
    ("bullet_line_fraction", "share of the lines that begin with \u2022 or -"),
    ("ellipsis_line_fraction", "share of the lines that end with ... or \u2026"),
    ("stop_words", "how many of the, be, to, of, and, that, have, with occur"),
    ("duplicate_line_fraction", "share of the non-blank lines that occurred before"),
    ("duplicate_line_char_fraction", "their share of the characters"),
    ("duplicate_line_text_fraction", "their share of the characters that are no line breaks"),
    ("duplicate_paragraph_fraction", "share of the paragraphs that occurred before"),
    ("duplicate_paragraph_char_fraction", "their share of the characters"),
    ("top_2_gram_char_fraction", "share of the characters in the most frequent pair of tokens, if it occurs twice"),
    ("top_3_gram_char_fraction", "share of the characters in the most frequent 3-gram of tokens, if it occurs twice"),
    ("top_4_gram_char_fraction", "share of the characters in the most frequent 4-gram of tokens, if it occurs twice"),
    ("duplicate_5_gram_char_fraction", "share of the characters in 5-grams of tokens that occurred before"),
    ("duplicate_6_gram_char_fraction", "share of the characters in 6-grams of tokens that occurred before"),
    ("duplicate_7_gram_char_fraction", "share of the characters in 7-grams of tokens that occurred before"),
    ("duplicate_8_gram_char_fraction", "share of the characters in 8-grams of tokens that occurred before"),
    ("duplicate_9_gram_char_fraction", "share of the characters in 9-grams of tokens that occurred before"),
    ("duplicate_10_gram_char_fraction", "share of the characters in 10-grams of tokens that occurred before"),
    ("terminal_line_fraction", "share of the non-blank lines that end with an end mark such as . ? ! or 。"),
    (
        "short_line_fraction",
        "share of the non-blank lines of at most 30 characters, a Han or kana character taken as 3",
    ),
    ("newline_word_ratio", "line breaks per token"),
    ("sentence_line_fraction", "share of the non-blank lines C4 keeps: an end mark or quote at the end, 3 words, ..."),
    ("sentences", "sentences in the lines C4 keeps"),
    ("curly_bracket_lines", "lines with { among those that end like a sentence and have 3 words"),
    ("lorem_ipsum_lines", "lines with lorem ipsum among those that end like a sentence and have 3 words"),
    ("javascript_lines", "lines that mention javascript"),
    ("policy_lines", "lines on terms of use, privacy policy or cookies, by C4's phrases"),
    ("upper_case_fraction", "share of the letters that are capitals"),
    ("digit_fraction", "share of the visible characters that are digits or other numbers"),
    ("cjk_fraction", "share of the letters that are Han, Hiragana, Katakana or Hangul"),
]

# Columns of `language.languages`.
LANGUAGE: list[tuple[str, str]] = [
    ("language", "language of the text's beginning as a BCP 47 code; und where it can't be told"),
    ("language_score", "share of that beginning in that language, 0 to 1; 0 for und"),
]

COLUMNS = [*STATISTICS, *LANGUAGE]

# The statistics that are counts (int64); the others are shares and ratios (float32).
INTEGERS = {
    "bytes",
    "characters",
    "words",
    "lines",
    "paragraphs",
    "stop_words",
    "sentences",
    "curly_bracket_lines",
    "lorem_ipsum_lines",
    "javascript_lines",
    "policy_lines",
}
