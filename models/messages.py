"""Texts of files and users inside messages: shown as they are, but harmless and of bounded length."""

from __future__ import annotations

import re

LONG_WORD = re.compile(r"\S{300,}")  # a file's name has at most 255 letters
LONGEST, BEGINNING, END = 2000, 1200, 600  # letters of a message, and of what is left of a longer one
SHOWN = 100  # letters of a long word


def plain(text: str) -> str:
    """The text on one line: control characters and marks of direction escaped, long words and a long middle left out.

    A second time changes nothing.
    """
    cut = LONG_WORD.sub(lambda word: f"{word[0][:SHOWN]}... ({len(word[0])} letters)", text)
    line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in cut)
    return line if len(line) <= LONGEST else f"{line[:BEGINNING]} ... {line[-END:]}"
