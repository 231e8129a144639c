"""Methods that act on the guided prediction as a whole: history, rescaling, thresholds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .cfg import Memory, Mix
from .tensors import append_dims, widest


@dataclass(frozen=True)
class History:
    """Guidance by the run's own past (HiGS, 2025): D' = D + strength (D - mean of the past), no further evaluation.

    The mean is exponential: mean' = memory mean + (1 - memory) D. This is the bare form: the paper's high-pass and its
    projection are left out.
    """

    strength: float = 0.5
    memory: float = 0.6
    STAGE: ClassVar[str] = "history"

    @property
    def neutral(self) -> bool:
        return self.strength == 0

    def __call__(self, value: Tensor, mix: Mix, memory: Memory) -> Tensor:
        mean = memory.get("history")
        if mean is None or mean.shape != value.shape:
            memory["history"] = value
            return value
        memory["history"] = self.memory * mean + (1 - self.memory) * value
        return value + self.strength * (value - mean)


@dataclass(frozen=True)
class Rescale:
    """Std rescale (Lin et al. 2023, arXiv 2305.08891, eq. 15, 16): the network's output keeps cond's deviation.

    V' = phi V std(V_c) / std(V) + (1 - phi) V, V what the network predicts (eps, v, or a flow's velocity).
    Per sample.
    """

    phi: float = 0.7
    STAGE: ClassVar[str] = "rescale"

    @property
    def neutral(self) -> bool:
        return self.phi == 0

    def __call__(self, value: Tensor, mix: Mix, memory: Memory) -> Tensor:
        output, wanted = mix.output(value), mix.output(mix.main)
        ratio = wanted.flatten(1).std(1) / output.flatten(1).std(1).clamp(min=torch.finfo(output.dtype).tiny)
        factor = append_dims(self.phi * ratio + (1 - self.phi), value.ndim)
        return mix.offset(value) - factor * output


@dataclass(frozen=True)
class DynamicThreshold:
    """Imagen's dynamic thresholding (Saharia et al. 2022, arXiv 2205.11487, sec. 2.3): for models on pixels.

    s = the percentile of |D|, at least 1 (at most `cap`, as DeepFloyd IF; below 1: none); D' = clip(D, -s, s) / s.
    """

    percentile: float = 0.995
    cap: float = 0.0
    STAGE: ClassVar[str] = "threshold"

    @property
    def neutral(self) -> bool:
        return False

    def __call__(self, value: Tensor, mix: Mix, memory: Memory) -> Tensor:
        # one sample at a time: torch.quantile takes 16 million numbers
        found = torch.stack([widest(sample.abs()).flatten().quantile(self.percentile) for sample in value])
        limit = append_dims(found.to(value).clamp(min=1, max=self.cap if self.cap >= 1 else None), value.ndim)
        return value.clamp(-limit, limit) / limit


@dataclass(frozen=True)
class MimicThreshold:
    """Dynamic thresholding for latents (mcmonkeyprojects, sd-dynamic-thresholding): the range of a lower scale.

    Each channel of D, about its mean, is clamped to the larger of its own percentile and the mimic's largest, and
    brought to the mimic's range. phi blends with the plain result. Steps without guidance have nothing to mimic.
    """

    mimic_scale: float = 7.0
    percentile: float = 1.0
    phi: float = 1.0
    STAGE: ClassVar[str] = "threshold"

    @property
    def neutral(self) -> bool:
        return self.phi == 0

    def __call__(self, value: Tensor, mix: Mix, memory: Memory) -> Tensor:
        strength = mix.strength
        usable = strength != 0
        mimic = mix.centre + (self.mimic_scale - 1) * mix.direction
        mean, spread = _centred(value)
        _, wanted = _centred(mimic)
        reach = wanted.abs().amax(2, keepdim=True)
        own = torch.quantile(widest(spread.abs()), self.percentile, dim=2, keepdim=True).to(spread)
        limit = torch.maximum(reach, own).clamp(min=torch.finfo(spread.dtype).tiny)
        limited = (spread.clamp(-limit, limit) / limit * reach + mean).view(value.shape)
        return torch.where(usable, torch.lerp(value, limited, self.phi), value)


def _centred(value: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of each channel [B C 1] and what is left of it [B C N]."""
    flat = value.flatten(2)
    mean = flat.mean(2, keepdim=True)
    return mean, flat - mean
