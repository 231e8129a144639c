"""Methods that change what each condition is measured against, or how much it counts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from .cfg import Branch, Memory, Mix
from .tensors import append_dims, dot, norm


def along(value: Tensor, axis: Tensor) -> Tensor:
    """The part of `value` along `axis`, each sample by itself; 0 where the axis is 0."""
    square = dot(axis, axis)
    share = dot(value, axis) / square.where(square > 0, square.new_ones(()))
    return append_dims(share, axis.ndim).to(axis) * axis


@dataclass(frozen=True)
class ZeroStar:
    """CFG-Zero* (Fan et al. 2025, arXiv 2503.18886, eq. 7): v_u is scaled by k = <v_c, v_u> / |v_u|^2.

    With v ~ x - D: D_u' = (1 - k) x + k D_u. `strength` in [0, 1] moves k from 1; the paper has 1.
    """

    strength: float = 1.0
    STAGE: ClassVar[str] = "reference"

    @property
    def neutral(self) -> bool:
        return self.strength == 0

    def __call__(self, mix: Mix, memory: Memory) -> Mix:
        uncond = mix.x - mix.base
        fitted = along(mix.x - mix.main, uncond)
        return mix.with_base(mix.base + self.strength * (uncond - fitted))


@dataclass(frozen=True)
class Tangential:
    """TCFG (Kwon et al. 2025, arXiv 2503.18137): eps_u keeps its part along the main axis of {eps_u, eps_c} only.

    The axis is the first right-singular vector of the rows [eps_u; eps_c]: a eps_u + b eps_c with (a, b) the first
    eigenvector of their 2x2 Gram matrix, at the angle atan2(2 <u, c>, <u, u> - <c, c>) / 2. eps ~ x - D.
    """

    strength: float = 1.0
    STAGE: ClassVar[str] = "reference"

    @property
    def neutral(self) -> bool:
        return self.strength == 0

    def __call__(self, mix: Mix, memory: Memory) -> Mix:
        uncond, cond = mix.x - mix.base, mix.x - mix.main
        uu, cc, uc = dot(uncond, uncond), dot(cond, cond), dot(uncond, cond)
        angle = torch.atan2(2 * uc, uu - cc) / 2
        a, b = (append_dims(part, uncond.ndim).to(uncond) for part in (angle.cos(), angle.sin()))
        kept = along(uncond, a * uncond + b * cond)
        return mix.with_base(mix.base + self.strength * (uncond - kept))


@dataclass(frozen=True)
class MagnitudeAware:
    """MAMBO-G (2025): scale' = 1 + (scale - 1) exp(-alpha |cond - uncond| / |uncond|), of the network's output.

    Conditions beside the main one are off at 0 instead of 1: scale' = scale exp(...).
    """

    alpha: float = 8.0
    STAGE: ClassVar[str] = "scale"

    @property
    def neutral(self) -> bool:
        return self.alpha == 0

    def __call__(self, mix: Mix, memory: Memory) -> Mix:
        return replace(mix, branches=tuple(self._weakened(mix, b, float(i == 0)) for i, b in enumerate(mix.branches)))

    def _weakened(self, mix: Mix, branch: Branch, off: float) -> Branch:
        if not isinstance(branch.scale, Tensor) and branch.scale == off:
            return branch
        reference = mix.output(branch.reference)
        length = norm(reference)
        ratio = norm(mix.output(branch.prediction) - reference) / length.clamp(min=torch.finfo(length.dtype).tiny)
        return replace(branch, scale=off + (branch.scale - off) * torch.exp(-self.alpha * ratio))


@dataclass(frozen=True)
class PerpNeg:
    """Perp-Neg (Armandpour et al. 2023, arXiv 2304.04968, eq. 8), for conditions of negative scale.

    Of their push only what stands across the main condition's is kept: N - strength (N along P). So a negative can't
    take the subject away. strength 0 is plain NOT, 1 the paper.
    """

    strength: float = 1.0
    STAGE: ClassVar[str] = "projection"

    @property
    def neutral(self) -> bool:
        return self.strength == 0

    def __call__(self, mix: Mix, memory: Memory) -> Mix:
        wanted = mix.branches[0].difference
        return replace(mix, branches=(mix.branches[0], *(self._across(b, wanted) for b in mix.branches[1:])))

    def _across(self, branch: Branch, wanted: Tensor) -> Branch:
        if not isinstance(branch.scale, Tensor) and branch.scale >= 0:
            return branch
        taken = self.strength * along(branch.difference, wanted)
        if isinstance(branch.scale, Tensor):
            taken = taken * append_dims(branch.scale < 0, taken.ndim)
        return replace(branch, reference=branch.reference + taken)
