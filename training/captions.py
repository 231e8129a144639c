"""What the text encoder reads: captions of scenes as tables of word indices, made once.

A training step looks captions up by class, on the device and without a word of Python.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from models.clip_noisy.words import indices

from .scenes import CLASSES, COLOURS, SHAPES, TEXTURES

WORDS = ("a", "an", "on", "the", "with", "background", "shape", *SHAPES, *COLOURS, *TEXTURES)


def phrase(names: list[str | None], short: bool) -> str:
    """A caption of (shape, colour, background, texture), None for what is left unsaid."""
    shape, colour, background, texture = names
    noun = " ".join(word for word in (texture, colour, shape or "shape") if word)
    text = f"a {noun}" + (f" on a {background}" if background else "")
    return text.replace("a ", "") if short else text


def single_captions(short: bool) -> list[str]:
    """A caption for each class alone, in the order of CLASS_NAMES."""
    lists = list(CLASSES.values())
    return [
        phrase([name if place == k else None for place in range(len(lists))], short)
        for k, names in enumerate(lists)
        for name in names
    ]


class Captions:
    """Every caption that `phrase` can make, as rows of word indices [context]."""

    def __init__(self, context: int, device: str):
        choices = [(*names, None) for names in CLASSES.values()]  # the last one: left unsaid
        self.sizes = [len(names) for names in choices]

        def rows(lines: list[str]) -> list[list[int]]:
            return [indices(line, WORDS, context) for line in lines]

        every = [phrase(list(names), short) for names in product(*choices) for short in (False, True)]
        self.table = torch.tensor(rows(every), device=device)
        self.alone = torch.tensor([rows(single_captions(short)) for short in (False, True)], device=device)

    def words(self, labels: Tensor, keep: Tensor, short: Tensor) -> Tensor:
        """Classes [B 4], those to be said [B 4] bool, in few words [B] bool -> [B context]."""
        row = torch.zeros_like(labels[:, 0])
        for k, size in enumerate(self.sizes):
            row = row * size + torch.where(keep[:, k], labels[:, k], size - 1)
        return self.table[2 * row + short]

    def singles(self, short: Tensor) -> Tensor:
        """Captions of each class alone, [classes context], in few words or not: [] bool."""
        return torch.where(short, self.alone[1], self.alone[0])
