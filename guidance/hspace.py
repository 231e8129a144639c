"""Edits of a network's h, its h-space (Kwon et al. 2022, Asyrp, arXiv 2210.10960), as pure functions.

h is [B C h w]: a U-Net's bottleneck, or the residual stream of a transformer behind one of its blocks. An edit gives
delta_h; the asymmetric update moves the predicted x0 with it and leaves the direction of the noise alone: symmetric
edits cancel (the paper's theorem 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .tensors import append_dims, at_least_float32, norm, widest

TRAINING_STEP = 1.01e-3  # of progress, the usual 1000 and a little
BUCKETS = 8  # of progress, for directions that differ from noise level to noise level


def asymmetric_step(
    x: Tensor, plain: Tensor, edited: Tensor, sigma: float, following: float, flow: bool = False
) -> Tensor:
    """Asyrp's step, as training makes it: x0's part of the step moves, and the noise's is left alone.

    With q = following / sigma and x0's share a' at the next level, 1, or 1 - following for flow models (x' = a' P~ +
    following eps): X' = D + q (X - D) + a' (D~ - D). What a sampler must see for it: D + `samplers.Move.edit`(D~ - D).
    The difference is formed in float32 at least.
    """
    moved = signal_at(following, flow) * (at_least_float32(edited) - at_least_float32(plain))
    return plain + (following / sigma) * (x - plain) + moved


def signal_at(sigma: float, flow: bool) -> float:
    """The share of x0 in x."""
    return 1 - sigma if flow else 1.0


def added(h: Tensor, delta_h: Tensor, preserve_norm: bool) -> Tensor:
    """h + delta_h; with `preserve_norm` each sample keeps its length: |h| (h + delta_h) / |h + delta_h|."""
    moved = h + delta_h
    if not preserve_norm:
        return moved
    length = norm(moved)
    ratio = norm(h) / length.where(length > 0, length.new_ones(()))
    return moved * append_dims(ratio, h.ndim)


def at_progress(delta_h: Tensor, progress: float, like: Tensor) -> Tensor:
    """The direction of a noise level: delta_h [n C h w] of n equal ranges of progress, at the size of `like`."""
    return at_size(of_level(delta_h, progress), like)


def of_level(delta_h: Tensor, progress: float) -> Tensor:
    """[1 C h w] of delta_h [n C h w] for n equal ranges of progress."""
    return delta_h[min(len(delta_h) - 1, int(progress * len(delta_h)))][None]


def at_size(h: Tensor, like: Tensor) -> Tensor:
    """Another bottleneck [n C h w], stretched to the size of `like`."""
    h = h.to(like)
    if h.shape[-2:] == like.shape[-2:]:
        return h
    return interpolate(h, like.shape[-2:], mode="bilinear", align_corners=False)


def step_count_factor(trained: int | None, steps: float) -> float:
    """n_train / n_test: the sum of a trained delta over a run stays the same, however many steps it has.

    n_test is the density of the schedule: how many steps of this size would make a whole run (`steps_of_a_whole_run`).
    """
    return 1.0 if trained is None else trained / steps


def steps_of_a_whole_run(progress: Sequence[float], index: int) -> float:
    """How many noise levels a whole run has whose step `index` is that of these levels, rising in progress, none clean.

    Read off the distance of neighbours: N levels, evenly spread over [0, 1], are 1 / (N - 1) apart, and each makes a
    step, the last one to the picture. A run with denoise .4, or one part of a chain, has the density of the whole that
    it is cut from. Levels that are even but for the rounding to a training step count as even, and are a whole number.
    """
    if len(progress) < 2:
        return 1.0 + 1.0 / max(1.0 - progress[0], TRAINING_STEP) if progress[0] else 1.0
    gaps = [after - before for before, after in pairwise(progress)]
    even = (progress[-1] - progress[0]) / len(gaps)
    gap = gaps[min(index, len(gaps) - 1)]
    if all(abs(one - even) <= TRAINING_STEP for one in gaps):
        return 1.0 + round(1.0 / max(even, TRAINING_STEP))
    return 1.0 + 1.0 / max(gap, TRAINING_STEP)


def several_factor(attributes: int) -> float:
    """1 / sqrt(N) for each of N attributes edited together."""
    return attributes**-0.5


def combined(shifts: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Several attributes at their own strengths, every shift f_i evaluated at the plain h, as Asyrp's code has it.

    delta_h = sum_i w_i f_i(h) / sqrt(N) over the N attributes whose weight is not 0.
    """
    used = [(weight, shift) for weight, shift in zip(weights, shifts, strict=True) if weight]
    if not used:
        return torch.zeros_like(shifts[0])
    return several_factor(len(used)) * torch.stack([weight * shift for weight, shift in used]).sum(0)


def mixed(h: Tensor, content: Tensor, ratio: float) -> Tensor:
    """Spherical mix of h with another picture's, brought to h's length (InjectFusion, Jeong et al. 2023).

    In float32, the angle by Kahan's formula, which loses nothing where the two are nearly parallel.
    """
    a, b = at_least_float32(h).flatten(1), at_least_float32(content).flatten(1)
    length = a.norm(dim=1, keepdim=True)
    tiny = torch.finfo(a.dtype).tiny
    a_unit, b_unit = a / length.clamp(min=tiny), b / b.norm(dim=1, keepdim=True).clamp(min=tiny)
    theta = 2 * torch.atan2((a_unit - b_unit).norm(dim=1, keepdim=True), (a_unit + b_unit).norm(dim=1, keepdim=True))
    small = theta.sin() < 1e-6
    safe = torch.where(small, torch.ones_like(theta), theta)
    first = torch.where(small, 1 - ratio + 0 * theta, ((1 - ratio) * safe).sin() / safe.sin())
    second = torch.where(small, ratio + 0 * theta, (ratio * safe).sin() / safe.sin())
    return (length * (first * a_unit + second * b_unit)).view(h.shape).to(h)


def calibration_shift(plain: Tensor, edited: Tensor, omega: float) -> Tensor:
    """How far latent calibration moves x = x0 + sigma noise, so that it fits another picture's h (InjectFusion's code).

    There x_t' = x_t + sqrt(a) (P^ - P) + omega sqrt(1 - a) (eps~ - eps), where P^ is P~ with the deviation of P. With
    x = x_t / sqrt(a) and sigma eps = x - P: x' - x = P^ - P - omega (P~ - P).
    """
    axes = tuple(range(1, plain.ndim))
    mean = edited.mean(axes, keepdim=True)
    ratio = plain.std(axes, keepdim=True) / edited.std(axes, keepdim=True).clamp(min=1e-12)
    return mean + ratio * (edited - mean) - plain - omega * (edited - plain)


def principal(bottlenecks: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """PCA of h over samples [N ...]: mean [...], components [count ...] of length 1, deviations [count] along them.

    (Haas et al. 2023, arXiv 2303.11073.) Signs are fixed: the largest number of a component is positive.
    """
    flat = widest(bottlenecks.flatten(1))
    mean = flat.mean(0)
    _, values, rows = torch.linalg.svd(flat - mean, full_matrices=False)
    rows = rows[:count]
    largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
    rows = rows * largest.sign()
    shape = bottlenecks.shape[1:]
    deviations = values[:count] / max(1, len(flat) - 1) ** 0.5
    return mean.view(shape).float(), rows.view(-1, *shape).float(), deviations.float()


def brought_about(change: Tensor, wanted: Tensor, directed: bool) -> list[float]:
    """How much a direction does to predictions at each noise level, [levels B ...] x 2 -> one number a level.

    Directed: the share 1 - |change - wanted|^2 / |wanted|^2 of a wanted change, 1 for all of it, 0 for none, below 0
    where it leads away. Otherwise |change| / |wanted|, `wanted` being the predictions themselves.
    """
    if not directed:
        return (_lengths(change) / _lengths(wanted).clamp(min=1e-12)).tolist()
    return (1 - _lengths(change - wanted).square() / _lengths(wanted).square().clamp(min=1e-24)).tolist()


def _lengths(parts: Tensor) -> Tensor:
    return widest(parts.flatten(1)).norm(dim=1)


def longest_window(does: Sequence[float]) -> tuple[float, float]:
    """(start, end) in progress of the equal parts of a run around the strongest in which at least half as much is done.

    (0, 1) where nothing is done.
    """
    best = max(range(len(does)), key=does.__getitem__)
    if does[best] <= 0:
        return 0.0, 1.0
    first, last = best, best
    while first and does[first - 1] >= does[best] / 2:
        first -= 1
    while last + 1 < len(does) and does[last + 1] >= does[best] / 2:
        last += 1
    return first / len(does), (last + 1) / len(does)
