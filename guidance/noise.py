"""Random numbers that belong to an image, not to its place in a batch."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import torch
from torch import Tensor

_STEP_STREAM = 0x9E3779B97F4A7C15  # keeps the noise of the steps apart from the initial noise of the same seed
_MIX = 6364136223846793005  # odd: seeds stay apart


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed & (2**64 - 1))


def _mixed(seed: int, *parts: int) -> int:
    for part in parts:
        seed = seed * _MIX + part
    return seed


def _draw(generators: Sequence[torch.Generator], shape: Sequence[int]) -> Tensor:
    return torch.stack([torch.randn(tuple(shape), generator=generator) for generator in generators])


def initial_noise(shape: Sequence[int], seed: int, indices: Sequence[int]) -> Tensor:
    """Unit noise [B ...] on the CPU: image i of a batch is what `seed + i` gives alone."""
    return _draw([_generator(seed + index) for index in indices], shape[1:])


class StepNoise:
    """The noise of each step of one run, like `x`.

    An image's draws depend on its own seed, `seed + index`, and on the noise level of the step alone: a run that is cut
    in two draws what the whole one does.
    """

    def __init__(self, like: Tensor, seed: int, indices: Sequence[int], levels: Sequence[float]):
        self.like = like
        self.seeds = [(seed + index) ^ _STEP_STREAM for index in indices]
        self.levels = [level_bits(level) for level in levels]

    def __call__(self, step: int) -> Tensor:
        generators = [_generator(_mixed(seed, self.levels[step])) for seed in self.seeds]
        return _draw(generators, self.like.shape[1:]).to(self.like, non_blocking=True)


def own_noise(shape: Sequence[int], seed: int, indices: Sequence[int], *purpose: int) -> Tensor:
    """Unit noise [B ...] on the CPU, image i's from `seed + indices[i]` and from what it is for, a few numbers."""
    return _draw([_generator(_mixed(seed + index, *purpose)) for index in indices], shape[1:])


def level_bits(level: float) -> int:
    """A noise level in float32 as a number, the same wherever a run is cut."""
    return int.from_bytes(struct.pack("<f", level), "little")
