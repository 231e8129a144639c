"""Texts as CONDITIONING for models that read them themselves: their tokens, as classes are (`..conditioning`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ....guidance.classifier_energy import NO_CLASS
from ....models.architecture import Facts
from ..conditioning import TEXT, indices_of, numbered


def text_conditioning(tokens: list[int], context: int, vocabulary: str) -> list[Any]:
    """CONDITIONING of a text, for every picture; a text without tokens is the null, and so is zero."""
    padded = torch.tensor([tokens + [NO_CLASS] * (context - len(tokens))])
    return [[numbered(padded), {TEXT: vocabulary}]]


def tokens_in(given: Mapping[str, Any], facts: Facts, context: int) -> Tensor:
    """Tokens, one text or one for each picture, long [n context], -1 behind their ends; all -1 is the null.

    Raises ValueError for what is no text of this model.
    """
    embedding = given.get("cross_attn")
    if embedding is None or not embedding.any():
        return torch.full((1, context), NO_CLASS)
    vocabulary = given.get(TEXT)
    if vocabulary != facts.vocabulary:
        came = f"one in the tokens of {vocabulary}" if vocabulary else "a CONDITIONING without one"
        raise ValueError(
            f"this model reads texts in the tokens of {facts.vocabulary}, and {came} came; connect this model to Text "
            "Conditioning"
        )
    if embedding.shape[1] != context:
        raise ValueError(
            f"{embedding.shape[1]} tokens came, and this model reads {context}: two texts were joined; write them as "
            "one, or use Conditioning (Combine)"
        )
    tokens = indices_of(embedding)
    if not torch.equal(embedding, numbered(tokens)):
        raise ValueError(
            "a text was mixed with another or multiplied, and there is nothing between tokens; use Conditioning "
            "(Combine), or CFG Combiner, whose conditions have a scale each"
        )
    return tokens
