"""Methods that shape the direction of guidance, cond - uncond, before it is scaled."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .cfg import Memory, Mix
from .cfg_branches import along
from .tensors import append_dims, norm


@dataclass(frozen=True)
class Momentum:
    """APG's momentum (Sadat et al. 2024, arXiv 2410.02416, alg. 1): d_t = d + beta d_(t+1); beta < 0 pushes apart."""

    beta: float = -0.5
    STAGE: ClassVar[str] = "momentum"

    @property
    def neutral(self) -> bool:
        return self.beta == 0

    def __call__(self, value: Tensor, mix: Mix, memory: Memory) -> Tensor:
        before = memory.get("momentum")
        if before is not None and before.shape == value.shape:
            value = value + self.beta * before
        memory["momentum"] = value
        return value


@dataclass(frozen=True)
class Cap:
    """APG's limit on the length (eq. 6), as root mean square: so it means the same at every resolution."""

    rms: float = 0.06
    STAGE: ClassVar[str] = "cap"
    NONE: ClassVar[float] = 100.0  # and above: no limit; nor at 0, as for every other method

    @property
    def neutral(self) -> bool:
        return self.rms >= self.NONE or self.rms == 0

    def __call__(self, value: Tensor, mix: Mix, memory: Memory) -> Tensor:
        rms = norm(value) / math.sqrt(value[0].numel())
        factor = (self.rms / rms.clamp(min=torch.finfo(rms.dtype).tiny)).clamp(max=1)
        return value * append_dims(factor, value.ndim)


@dataclass(frozen=True)
class Parallel:
    """APG's projection (eq. 4): what lies along the conditional prediction, and over-saturates, counts eta."""

    eta: float = 0.0
    STAGE: ClassVar[str] = "parallel"

    @property
    def neutral(self) -> bool:
        return self.eta == 1

    def __call__(self, value: Tensor, mix: Mix, memory: Memory) -> Tensor:
        return value - (1 - self.eta) * along(value, mix.main)


@dataclass(frozen=True)
class Bands:
    """Frequency-decoupled guidance (Sadat et al. 2025, arXiv 2506.19713): coarse and fine parts at their own scales.

    The coarse part is the first level of a Gaussian pyramid, enlarged again (kornia). `low` and `high` multiply
    scale - 1; over frames of a video each picture has its own pyramid.
    """

    low: float = 0.5
    high: float = 1.0
    STAGE: ClassVar[str] = "bands"

    @property
    def neutral(self) -> bool:
        return self.low == 1 and self.high == 1

    def __call__(self, value: Tensor, mix: Mix, memory: Memory) -> Tensor:
        coarse = _coarse(value)
        return self.low * coarse + self.high * (value - coarse)


def _coarse(value: Tensor) -> Tensor:
    """A level down the pyramid and up again, for sides of any length: kornia's pyrup is for even ones."""
    from kornia.filters import filter2d  # imported when first used: it takes a second
    from kornia.geometry.transform import pyrdown

    pictures = value.reshape(-1, 1, *value.shape[-2:])
    large = interpolate(pyrdown(pictures), value.shape[-2:], mode="bilinear", align_corners=False)
    taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=value.dtype, device=value.device) / 16
    return filter2d(large, torch.outer(taps, taps)[None]).reshape(value.shape)
