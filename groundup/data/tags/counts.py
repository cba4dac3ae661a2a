"""Places in a document's row of counts, as `scan` fills it."""

from __future__ import annotations

CHARACTERS = 0
VISIBLE = 1  # characters that are no white space
LETTERS = 2
CAPITALS = 3
DIGITS = 4
CJK_LETTERS = 5
WORDS = 6
WORD_CHARACTERS = 7
TOKENS = 8
ALPHABETIC = 9
NUMBER_SIGNS = 10
ELLIPSES = 11
STOP_WORDS = 12  # as bits while scanning
NEWLINES = 13
LINES = 14  # not blank
BULLET_LINES = 15
ELLIPSIS_LINES = 16
TERMINAL_LINES = 17
SHORT_LINES = 18
PARAGRAPHS = 19
C4_LINES = 20
C4_SENTENCES = 21
CURLY_LINES = 22
LOREM_LINES = 23
JAVASCRIPT_LINES = 24
POLICY_LINES = 25
MEASURED = 26  # characters before the limit of what is searched for repetitions
MEASURED_NEWLINES = 27
STORED_TOKENS = 28
STORED_LINES = 29
STORED_PARAGRAPHS = 30
UNFINISHED = 31  # 1 where the last line has no line break and isn't empty
COUNTS = 32
