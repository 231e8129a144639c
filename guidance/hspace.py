"""Edits of a U-Net's bottleneck h, its h-space (Kwon et al. 2022, Asyrp, arXiv 2210.10960), as pure functions.

h is [B C h w]. An edit gives delta_h; the asymmetric update moves the predicted x0 with it and leaves the direction of
the noise alone: symmetric edits cancel (the paper's theorem 1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .tensors import append_dims, norm, wide

BUCKETS = 8  # of progress, for directions that differ from noise level to noise level


def asymmetric(plain: Tensor, edited: Tensor, sigma: float, following: float, flow: bool = False) -> Tensor:
    """What a first-order sampler must see for Asyrp's step, in denoised space or any that is linear in it.

    Asyrp moves x0's part of the step and leaves the noise's alone: with q = following / sigma and x0's share a' at the
    next level, 1, or 1 - following for flow models (x' = a' P~ + following eps),

        X' = D + q (X - D) + a' (D~ - D).

    A sampler makes X' = D' + q (X - D'), so D' = D + a' (D~ - D) / (1 - q). Other samplers: `samplers.Move.edit`. The
    difference is formed in float32, for dividing it enlarges what rounding has left of it.
    """
    return plain + (wide(edited) - wide(plain)) * signal_at(following, flow) / (1 - following / sigma)


def asymmetric_step(
    x: Tensor, plain: Tensor, edited: Tensor, sigma: float, following: float, flow: bool = False
) -> Tensor:
    """Asyrp's step itself: X' = D + q (X - D) + a' (D~ - D), as training makes it."""
    moved = signal_at(following, flow) * (wide(edited) - wide(plain))
    return plain + (following / sigma) * (x - plain) + moved


def signal_at(sigma: float, flow: bool) -> float:
    """The share of x0 in x."""
    return 1 - sigma if flow else 1.0


def wide(value: Tensor) -> Tensor:
    """In float32 or wider."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


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
    bucket = min(len(delta_h) - 1, int(progress * len(delta_h)))
    return at_size(delta_h[bucket][None], like)


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


def steps_of_a_whole_run(progress: Sequence[float]) -> float:
    """Steps over the progress that they make, for the progress of a schedule's levels, rising in [0, 1].

    A run with denoise .4, or one part of a chain, has the density of the whole that it is cut from.
    """
    made = progress[-1] - progress[0]
    return max(1.0, (len(progress) - 1) / made) if made > 0 else max(1.0, len(progress) - 1.0)


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
    """Spherical mix of h with another picture's, brought to h's length (InjectFusion, Jeong et al. 2023)."""
    a, b = wide(h.flatten(1)), wide(content.flatten(1))
    b = b * (a.norm(dim=1) / b.norm(dim=1).clamp(min=1e-12))[:, None]
    theta = torch.acos(torch.nn.functional.cosine_similarity(a, b, dim=1).clamp(-1, 1))[:, None]
    small = theta.sin() < 1e-6
    safe = torch.where(small, torch.ones_like(theta), theta)
    first = torch.where(small, 1 - ratio + 0 * theta, ((1 - ratio) * safe).sin() / safe.sin())
    second = torch.where(small, ratio + 0 * theta, (ratio * safe).sin() / safe.sin())
    return (first * a + second * b).view(h.shape).to(h)


def calibration_shift(plain: Tensor, edited: Tensor, omega: float) -> Tensor:
    """How far latent calibration moves x = x0 + sigma noise, so that it fits another picture's h (InjectFusion's code).

    There x_t' = x_t + sqrt(a) (P^ - P) + omega sqrt(1 - a) (eps~ - eps), where P^ is P~ with the deviation of P. With
    x = x_t / sqrt(a) and sigma eps = x - P: x' - x = P^ - P - omega (P~ - P).
    """
    axes = tuple(range(1, plain.ndim))
    mean = edited.mean(axes, keepdim=True)
    ratio = plain.std(axes, keepdim=True) / edited.std(axes, keepdim=True).clamp(min=1e-12)
    return mean + ratio * (edited - mean) - plain - omega * (edited - plain)


def calibrated(moved: Tensor, shift: Tensor, sigma: float, following: float) -> Tensor:
    """What a first-order sampler at x must see, to step as the plain model steps from x + shift.

    There x' = D(x + shift) + rho (x + shift - D(x + shift)) with rho = following / sigma. A sampler makes
    x' = D' + rho (x - D'), so D' = D(x + shift) + rho / (1 - rho) shift.
    """
    rho = following / sigma
    return moved + rho / (1 - rho) * shift


def principal(bottlenecks: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """PCA of h over samples [N ...]: mean [...], components [count ...] of length 1, deviations [count] along them.

    (Haas et al. 2023, arXiv 2303.11073.) Signs are fixed: the largest number of a component is positive.
    """
    flat = wide(bottlenecks.flatten(1))
    mean = flat.mean(0)
    _, values, rows = torch.linalg.svd(flat - mean, full_matrices=False)
    rows = rows[:count]
    largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
    rows = rows * largest.sign()
    shape = bottlenecks.shape[1:]
    deviations = values[:count] / max(1, len(flat) - 1) ** 0.5
    return mean.view(shape).float(), rows.view(-1, *shape).float(), deviations.float()
