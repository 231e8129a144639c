"""Words of the small text encoder: lower-case letters, one index a word."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence


def indices(text: str, vocabulary: Sequence[str], context: int) -> list[int]:
    """1 + the place of each word in the vocabulary, filled up with 0 to `context`.

    Raises ValueError for a text without words, for words that the encoder never saw, and for more than `context` words.
    """
    words = re.findall(r"[^\s,.;:!?]+", text.lower())
    if not words:
        raise ValueError("the text is empty; write what the picture should show")
    if len(words) > context:
        raise ValueError(f"the text has {len(words)} words, this encoder reads {context}; shorten it")
    known = {word: index + 1 for index, word in enumerate(vocabulary)}
    for word in words:
        if word not in known:
            near = difflib.get_close_matches(word, vocabulary, n=3)
            hint = f"did you mean {', '.join(near)}" if near else f"it knows: {' '.join(vocabulary)}"
            raise ValueError(f"this small encoder does not know the word {word!r}; {hint}")
    return [known[word] for word in words] + [0] * (context - len(words))
