"""Drawn steps of guided sampling for tests of CFG, as batches and sample by sample, and one of every method."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from pack.guidance.cfg import Branch, Mix
from pack.guidance.cfg_branches import MagnitudeAware, PerpNeg, Tangential, ZeroStar
from pack.guidance.cfg_direction import Bands, Cap, Momentum, Parallel
from pack.guidance.cfg_result import DynamicThreshold, History, MimicThreshold, Rescale

SHAPE, VIDEO = (3, 4, 8, 8), (2, 4, 3, 8, 8)
SCALE = 7.5
SIGMAS = {"eps": (14.6, 2.0, 0.3), "v": (14.6, 2.0, 0.3), "flow": (0.95, 0.5, 0.1)}
# a of D = a x + b F, F what the network predicts
SLOPES = {
    "eps": torch.ones_like,  # eps = (x - D) / sigma
    "flow": torch.ones_like,  # the velocity is (x - D) / sigma, too
    "v": lambda sigma: 1 / (1 + sigma**2),  # v = (eps - sigma D) / sqrt(1 + sigma^2) (Salimans & Ho 2022)
}
LENGTHS = (1.0, 0.1, 0.02)  # of cond - uncond, by sample: a cap holds some and leaves others


def draw(seed, *shape):
    """Normal numbers that float32 holds, too, so both precisions start from the same ones."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def spread(values, ndim):
    return torch.tensor(values, dtype=torch.float64).view(-1, *(1,) * (ndim - 1))


def plain(uncond, cond, scale):
    return uncond + (cond - uncond) * scale


def largest_error(found, expected):
    """The largest difference in any sample over its largest value."""
    found, expected = found.double().flatten(1), expected.double().flatten(1)
    return float(((found - expected).abs().amax(1) / expected.abs().amax(1)).max())


@dataclass
class Sample:
    """One image of one step, in numpy; `output` is what the network itself predicts there."""

    kind: str
    sigma: float
    x: np.ndarray
    uncond: np.ndarray
    cond: np.ndarray
    negative: np.ndarray
    scale: float

    def output(self, denoised):
        if self.kind == "v":  # v = a eps - b x0 with a = 1 / sqrt(1 + sigma^2), b = sigma a (Salimans & Ho 2022)
            return ((self.x - denoised) / self.sigma - self.sigma * denoised) / np.sqrt(1 + self.sigma**2)
        return (self.x - denoised) / self.sigma  # eps; the velocity of a flow is the same

    def denoised(self, output):
        if self.kind == "v":  # x0 = a x_vp - b v, x_vp = a x
            return self.x / (1 + self.sigma**2) - self.sigma / np.sqrt(1 + self.sigma**2) * output
        return self.x - self.sigma * output

    @property
    def cfg(self):
        return self.uncond + self.scale * (self.cond - self.uncond)


@dataclass
class World:
    """One step of a batch: the tensors, and the same as samples."""

    kind: str
    sigma: torch.Tensor
    x: torch.Tensor
    uncond: torch.Tensor
    cond: torch.Tensor
    negative: torch.Tensor
    scale: float = SCALE

    @property
    def samples(self):
        tensors = [part.numpy() for part in (self.x, self.uncond, self.cond, self.negative)]
        return [Sample(self.kind, float(s), *(t[i] for t in tensors), self.scale) for i, s in enumerate(self.sigma)]

    def mix(self, dtype=torch.float64, scale=None, negative_scale=None):
        x, uncond, cond, negative = (p.to(dtype) for p in (self.x, self.uncond, self.cond, self.negative))
        branches = [Branch(cond, uncond, self.scale if scale is None else scale)]
        if negative_scale is not None:
            branches.append(Branch(negative, uncond, negative_scale))
        return Mix(x, SLOPES[self.kind](self.sigma.to(dtype)), uncond, tuple(branches))


def world(kind="eps", seed=0, shape=SHAPE, shrink=1.0):
    sigma = torch.tensor(SIGMAS[kind][: shape[0]], dtype=torch.float64) * shrink
    level = sigma.view(-1, *(1,) * (len(shape) - 1))
    uncond = draw(seed, *shape)
    cond = uncond + draw(seed + 1, *shape) * spread(LENGTHS[: shape[0]], len(shape))
    x = (1 - level if kind == "flow" else 1) * uncond + level * draw(seed + 2, *shape)
    negative = uncond + draw(seed + 3, *shape)
    exact = [part.float().double() for part in (sigma, x, uncond, cond, negative)]
    return World(kind, *exact)


def run_of(kind, steps=4):
    """The steps of a short run, the noise falling."""
    return [world(kind, 10 * k, shrink=0.8**k) for k in range(steps)]


def crowd(kind, shape, seed):
    """A batch with four conditions: shared and own masks, a negative scale, scales of single samples."""
    step = world(kind, seed, shape)
    mix = step.mix()
    area = (*(1,) * (len(shape) - 3), 8, 8)
    shared = draw(seed + 5, 1, *area).sigmoid()
    own = (draw(seed + 6, shape[0], *area) > 0).double()
    scales = torch.tensor([0.5, 2.0, -1.0], dtype=torch.float64)[: shape[0]]
    further = (
        Branch(step.negative, mix.base, -1.5, shared),
        Branch(draw(seed + 7, *shape), mix.base, 0.8, own),
        Branch(draw(seed + 8, *shape), draw(seed + 9, *shape), scales),
    )
    return replace(mix, branches=(*mix.branches, *further))


EVERY = [
    ZeroStar(),
    Tangential(),
    MagnitudeAware(2.0),
    PerpNeg(),
    Momentum(),
    Cap(),
    Parallel(),
    Bands(),
    History(),
    Rescale(),
    DynamicThreshold(),
    MimicThreshold(3.0),
]
ONE_OF_A_STAGE = [m for m in EVERY if not isinstance(m, Tangential | DynamicThreshold)]


def named(method):
    return f"{type(method).__name__} {' '.join(str(value) for value in vars(method).values())}"


def group_name(methods):
    return " ".join(type(method).__name__ for method in methods) or "none"
