"""Texts as CLIP reads them: open_clip's byte pairs, lower-cased and cleaned, between a start and an end."""

from __future__ import annotations

from functools import cache

from open_clip.tokenizer import SimpleTokenizer


@cache
def tokenizer() -> SimpleTokenizer:
    return SimpleTokenizer()


def tokens(text: str, context: int) -> list[int]:
    """Start, text, end. Raises ValueError for an empty text and one too long: nothing is cut off in silence."""
    if not text.strip():
        raise ValueError("the text is empty; write what the picture should show")
    found = [tokenizer().sot_token_id, *tokenizer().encode(text), tokenizer().eot_token_id]
    if len(found) > context:
        raise ValueError(f"the text has {len(found) - 2} tokens, this encoder reads {context - 2}; shorten it")
    return found
