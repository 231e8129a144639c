"""Classifier-free guidance with any number of conditions, and the one order in which its methods act.

D = D_base + sum_i mask_i scale_i (D_i - D_ref(i))   (Ho & Salimans 2022, arXiv 2207.12598; Liu et al. 2022, 2206.01714)

in denoised space, where it has the same weights as for eps or a flow's velocity. One condition against the negative is
plain CFG, `uncond + scale (cond - uncond)`: scale 1 is off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from .tensors import append_dims

Memory = dict[str, Tensor]  # what methods remember from step to step of one run

# Stages in their order. Those of branches see each condition, those of the direction the sum, the last the result.
BRANCHES = ("reference", "scale", "projection")
DIRECTION = ("momentum", "cap", "parallel", "bands")
RESULT = ("history", "rescale", "threshold")
ORDER = (*BRANCHES, *DIRECTION, *RESULT)


@dataclass(frozen=True)
class Branch:
    """One condition: scale * mask * (prediction - reference). Tensors [B ...]; scale a number, or [B] one a sample."""

    prediction: Tensor
    reference: Tensor
    scale: float | Tensor
    mask: Tensor | None = None

    @property
    def difference(self) -> Tensor:
        return self.prediction - self.reference

    @property
    def push(self) -> Tensor:
        push = self.difference * _spread(self.scale, self.prediction.ndim)
        return push if self.mask is None else push * self.mask


@dataclass(frozen=True)
class Mix:
    """All predictions of one step. The first branch is the main condition."""

    x: Tensor  # [B ...] noisy
    slope: Tensor  # [B], a of how the network's output F is read, denoised = a x + b F: 1 for eps and flows, 0 for x0
    base: Tensor  # what the branches are added to: usually the negative's prediction
    branches: tuple[Branch, ...]

    @property
    def main(self) -> Tensor:
        return self.branches[0].prediction

    @property
    def denoised(self) -> Tensor:
        """The plain sum."""
        total = self.base
        for branch in self.branches:
            total = total + branch.push
        return total

    @property
    def strength(self) -> Tensor:
        """How much guidance there is, [B 1 1 ...]: scale - 1 for one condition, with others its size + sum |scale_i|.

        It has the sign of the main condition's scale - 1.
        """
        first, *rest = (_spread(branch.scale, self.x.ndim) for branch in self.branches)
        first = (first - 1).to(self.x) if isinstance(first, Tensor) else self.x.new_full((), first - 1)
        size = abs(first) + sum(abs(scale) for scale in rest)
        return torch.where(first < 0, -size, size)

    @property
    def without_guidance(self) -> bool:
        """Whether the strength is 0 for every sample, as far as scales are numbers."""
        first, *rest = (None if isinstance(branch.scale, Tensor) else branch.scale for branch in self.branches)
        return first == 1 and all(scale == 0 for scale in rest)

    @property
    def centre(self) -> Tensor:
        """The sum without guidance: the main condition at scale 1, the base where its mask is 0."""
        return self.base + replace(self.branches[0], scale=1.0).push

    @property
    def direction(self) -> Tensor:
        """Guidance for strength 1: denoised = centre + strength direction; cond - uncond for one condition."""
        first = self.branches[0]
        total = replace(first, scale=first.scale - 1).push
        for branch in self.branches[1:]:
            total = total + branch.push
        strength = self.strength
        return total / strength.where(strength != 0, strength.new_ones(()))

    def with_base(self, base: Tensor) -> Mix:
        """Another base; branches that were measured against the old one (that very tensor) follow it."""
        moved = (replace(b, reference=base) if b.reference is self.base else b for b in self.branches)
        return replace(self, base=base, branches=tuple(moved))

    def output(self, denoised: Tensor) -> Tensor:
        """What the network predicts where it predicts `denoised`, but for a factor: -b F = a x - denoised."""
        return self.offset(denoised) - denoised

    def offset(self, like: Tensor) -> Tensor:
        return append_dims(self.slope, like.ndim).to(like) * self.x


class Method(Protocol):
    """A form of guidance. Neutral settings leave plain CFG, bit for bit: such a method is not called at all."""

    STAGE: ClassVar[str]

    @property
    def neutral(self) -> bool: ...


class BranchMethod(Method, Protocol):
    def __call__(self, mix: Mix, memory: Memory) -> Mix: ...


class TensorMethod(Method, Protocol):
    """Of the direction, or of the result; per sample."""

    def __call__(self, value: Tensor, mix: Mix, memory: Memory) -> Tensor: ...


def _spread(scale: float | Tensor, ndim: int) -> float | Tensor:
    return append_dims(scale, ndim) if isinstance(scale, Tensor) else scale


def combine(mix: Mix, methods: Sequence[Method], memory: Memory) -> Tensor:
    """The guided prediction. Methods act in the order of ORDER, whatever the order they come in.

    Those of the direction see cond - uncond (of several conditions, their weighted sum), and D = centre + strength *
    direction is put together again behind them (the form of APG, Sadat et al. 2024, arXiv 2410.02416). Two methods of
    one stage act in the order of their names.
    """
    active = sorted((m for m in methods if not m.neutral), key=lambda m: (ORDER.index(m.STAGE), type(m).__name__))
    for method in active:
        if method.STAGE in BRANCHES:
            mix = method(mix, memory)  # pyright: ignore
    denoised = _directed(mix, [m for m in active if m.STAGE in DIRECTION], memory)
    for method in active:
        if method.STAGE in RESULT:
            denoised = method(denoised, mix, memory)  # pyright: ignore
    return denoised


def _directed(mix: Mix, methods: Sequence[Method], memory: Memory) -> Tensor:
    plain = mix.denoised
    if not methods or mix.without_guidance:
        return plain
    strength = mix.strength
    usable = strength != 0
    direction = mix.direction
    for method in methods:
        direction = method(direction, mix, memory)  # pyright: ignore
    return torch.where(usable, mix.centre + strength * direction, plain)


def similarity(mix: Mix) -> Tensor:
    """Cosine of cond's and uncond's predicted pictures, [B]. Near 1 the negative may go.

    Adaptive Guidance (Castillo et al. 2023, arXiv 2312.12487) compares eps. At much noise both eps are the noise
    itself, whatever the condition; their pictures begin apart and grow alike.
    """
    cond, uncond = (part.flatten(1).float() for part in (mix.main, mix.branches[0].reference))
    return torch.nn.functional.cosine_similarity(cond, uncond, dim=1)
