"""Gradients of energies, and the four places where they can be taken.

A guide says how good a picture is; an estimator turns dE into a direction for the denoised sample. With a weight w the
direction is w (d denoised / d log p) (-dE) in the paper's own unit, or, for energies without a natural scale, has the
length lambda `Step.reach`: lambda says how far a guide moves the state in terms of the model's own step |x - denoised|,
whatever the sampler, the resolution and the space, and fades where that step is longer than the data is wide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import vmap

from .step import Energy, Step
from .tensors import append_dims, dot, norm, resized, unit

EXACT, THROUGH = "at noisy", "through denoiser"  # estimators of noise-aware guides, and by the model's Jacobian


def gradient(energy: Energy, x: Tensor, sigma: Tensor) -> Tensor:
    """dE/dx at x; images of a batch don't mix. The caller sees to it that autograd is on."""
    x = _leaf(x)
    (grad,) = torch.autograd.grad(energy(x, sigma.clone()).sum(), x)
    return grad


@dataclass(eq=False)
class View:
    """What several energies look at: a differentiable map of samples, as to pixels. One sample is mapped once.

    Its last graph is kept until `forget`, for those who ask again.
    """

    of: Callable[[Tensor], Tensor]
    last: tuple[Tensor, Tensor, Tensor, Tensor] | None = None  # a sample, its leaf, what it looks like, that as a leaf

    def seen(self, sample: Tensor) -> Tensor:
        """The map of a sample, as a leaf of its own graph."""
        if self.last is None or self.last[0] is not sample:
            self.last = None
            leaf = _leaf(sample)
            found = self.of(leaf)
            self.last = (sample, leaf, found, found.detach().requires_grad_(True))
        return self.last[3]

    def pulled(self, grads: list[Tensor]) -> Sequence[Tensor]:
        """Gradients at what was last seen, pulled back to the sample, all in one pass."""
        assert self.last is not None
        _, leaf, found, _ = self.last

        def pulled(grad: Tensor) -> Tensor:
            return torch.autograd.grad(found, leaf, grad, retain_graph=True)[0]

        if len(grads) == 1:
            return [pulled(grads[0])]
        try:
            return vmap(pulled)(torch.stack(grads)).unbind()
        except RuntimeError:  # an operation that knows no such axis; the products are the same one by one
            return [pulled(grad) for grad in grads]

    def forget(self) -> None:
        self.last = None


@dataclass(frozen=True)
class Term:
    """One guide at one step."""

    name: str
    energy: Energy
    scale: float  # in the paper's unit: multiplies the gradient; else lambda
    relative: bool  # False: the paper's unit
    estimator: str  # one of ESTIMATORS
    mask: Tensor | None = None  # like x, axes of size 1 allowed, in [0, 1]: where the guide may act
    least: float | None = None  # smallest value that the energy can have; None: a log-probability, never limited
    view: View | None = None  # what the energy looks at instead of the sample


@dataclass(frozen=True)
class Reading:
    """What a guide measured at one step, [B] each; `lambda_` is the length of its direction over |x - denoised|."""

    name: str
    loss: Tensor
    grad_norm: Tensor
    lambda_: Tensor
    dropped: Tensor  # bool: the gradient was NaN or infinite
    limited: Tensor  # bool: the direction was cut to `stable_length`


@dataclass(frozen=True)
class Pulls:
    """Weighted sums of -dE over the guides, like x. None where no guide uses the unit."""

    paper: Tensor | None
    relative: Tensor | None  # of unit gradients times lambda
    readings: list[Reading]
    mask: Tensor | None = None  # that all guides have, None if they have several or none


Pull = Callable[[Tensor, Tensor], Pulls]  # (picture, sigma [B]; 0 is clean) -> pulls at that picture


def pull_of(terms: Sequence[Term], step: Step, per_gradient: Tensor) -> Pull:
    """All guides at one picture. They share the forward pass of what they have in common; each is normalised by itself.

    `per_gradient` [B]: what a gradient is worth as a direction in the paper's unit, for the readings.
    """

    def pull(picture: Tensor, sigma: Tensor) -> Pulls:
        sums: dict[bool, Tensor] = {}
        readings = []
        for term, loss, grad in zip(terms, *_gradients(terms, picture, sigma), strict=True):
            grad, dropped = finite(grad)
            towards = -grad if term.mask is None else -grad * term.mask
            limited = torch.zeros_like(dropped)
            if term.relative:
                part = term.scale * unit(towards)
                if term.mask is not None:
                    part = part * append_dims(_share(term.mask, step), grad.ndim)
                length = norm(part) * step.reach
            else:
                part = term.scale * towards
                length = norm(part) * per_gradient
                if term.least is not None and term.estimator == EXACT:
                    longest = stable_length(loss - term.least, norm(towards), step)
                    limited = length > longest
                    part = torch.where(append_dims(limited, part.ndim), resized(part, longest / per_gradient), part)
                    length = torch.where(limited, longest, length)
            readings.append(Reading(term.name, loss, norm(grad), length / step.distance, dropped, limited))
            sums[term.relative] = sums[term.relative] + part if term.relative in sums else part
        masks = {id(term.mask): term.mask for term in terms}
        return Pulls(sums.get(False), sums.get(True), readings, *masks.values() if len(masks) == 1 else ())

    return pull


def _gradients(terms: Sequence[Term], picture: Tensor, sigma: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """E [B] and dE/dx of each term. Those of one view share its pass, forward and backward."""
    leaf = _leaf(picture)
    looked_at = [leaf if term.view is None else term.view.seen(picture) for term in terms]
    losses = [term.energy(x, sigma) for term, x in zip(terms, looked_at, strict=True)]
    grads = [
        torch.autograd.grad(loss.sum(), x, retain_graph=len(terms) > 1 or term.view is not None)[0]
        for term, loss, x in zip(terms, losses, looked_at, strict=True)
    ]
    for view in {id(term.view): term.view for term in terms if term.view is not None}.values():
        places = [place for place, term in enumerate(terms) if term.view is view]
        for place, pulled in zip(places, view.pulled([grads[place] for place in places]), strict=True):
            grads[place] = pulled
    return [loss.detach() for loss in losses], grads


def _leaf(x: Tensor) -> Tensor:
    """A normal tensor of its own, where a graph begins."""
    x = x.clone() if x.is_inference() else x.detach()
    return x.requires_grad_(True)


def stable_length(height: Tensor, slope: Tensor, step: Step) -> Tensor:
    """The longest direction at the noisy sample of an energy that is no log-probability, [B].

    `height` [B] is E above its least value, `slope` [B] is |dE/dx|. A step from x by h down the gradient never leads
    away from the minima of a convex E if h |dE/dx| <= 2 height / slope (Polyak 1987, sec. 5.3.2): on a parabola that is
    its bottom. Longer ones overshoot more from step to step, as explicit Euler does where h times the curvature is over
    2. A direction d moves x by `Step.now` |d|. Never longer than `Step.furthest`, for energies that are
    flat at much noise.
    """
    tiny = torch.finfo(slope.dtype).tiny
    return torch.minimum(2 * height / (slope * step.now).clamp(min=tiny), step.furthest)


def finite(grad: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient with zeros for every sample that has a NaN or an infinity, and which those are, [B]."""
    bad = (grad * 0).flatten(1).sum(dim=1) != 0  # NaN and infinity times 0 are NaN
    return grad.masked_fill(append_dims(bad, grad.ndim), 0), bad


def _share(mask: Tensor, step: Step) -> Tensor:
    """Part of the model's step that lies under a mask, [B]: a masked guide is as strong there as an unmasked one."""
    return norm((step.x - step.denoised) * mask) / step.distance


Estimator = Callable[[Step, Pull, int], tuple[Tensor, list[Reading]]]  # (step, pull, inner steps) -> direction


def _direction(step: Step, pulls: Pulls, per_gradient: Tensor) -> Tensor:
    """Both units as one direction."""
    parts = []
    if pulls.paper is not None:
        parts.append(append_dims(per_gradient, step.x.ndim) * pulls.paper)
    if pulls.relative is not None:
        parts.append(append_dims(step.reach, step.x.ndim) * pulls.relative)
    return sum(parts[1:], parts[0])


def at_noisy(step: Step, pull: Pull, inner_steps: int) -> tuple[Tensor, list[Reading]]:
    """-dE/dx at the noisy sample itself, for networks trained on noisy pictures (Dhariwal & Nichol 2021; SDG): exact.

    denoised' = denoised + sigma^2 grad_x log p(y | x); the flow form stands in `guidance.score`.
    """
    pulls = pull(step.x, step.sigma)
    return _direction(step, pulls, step.shift), pulls.readings


def at_denoised(step: Step, pull: Pull, inner_steps: int) -> tuple[Tensor, list[Reading]]:
    """-dE/dx0 at the denoised sample, the model left out (MPGD, He et al. 2023, arXiv 2311.16424).

    E[x0 | x, y] = denoised + Cov(x0 | x) grad log p(y | x0), to first order; `Step.clean_variance` stands for Cov.
    """
    pulls = pull(step.denoised, torch.zeros_like(step.sigma))
    return _direction(step, pulls, step.clean_variance), pulls.readings


def at_denoised_optimised(step: Step, pull: Pull, inner_steps: int) -> tuple[Tensor, list[Reading]]:
    """The minimum z of E(z) + |z - denoised|^2 / (2 Cov), an implicit step; one inner step is `at_denoised`, explicit.

    There z = denoised + direction(z). It is solved by generalised conjugate residuals (Eisenstat, Elman & Schultz
    1983), one look an inner step, the products with the matrix being differences of looks. For a quadratic E the
    residual denoised + direction(z) - z never grows, whatever Cov d^2E is, and is 0 after as many inner steps as d^2E
    has different eigenvalues, and one. Differences are taken over `Step.reach` at most; a move is at most twice as long
    as the residual, where E is far from quadratic or from convex.
    """

    def missing(z: Tensor) -> tuple[Tensor, list[Reading]]:
        pulls = pull(z, torch.zeros_like(step.sigma))
        return step.denoised + _direction(step, pulls, step.clean_variance) - z, pulls.readings

    if inner_steps == 1:
        return at_denoised(step, pull, 1)
    z = step.denoised
    residual, readings = missing(z)
    known: list[tuple[Tensor, Tensor]] = []
    for _ in range(inner_steps - 1):
        along = residual
        share = (step.reach / norm(along).clamp(min=torch.finfo(along.dtype).tiny)).clamp(max=1)
        share = append_dims(torch.where(share > 0, share, torch.ones_like(share)), z.ndim)
        change = (residual - missing(z + share * along)[0]) / share
        for before, changed in known:
            part = append_dims(dot(change, changed), z.ndim).to(z)
            along, change = along - part * before, change - part * changed
        size = torch.maximum(norm(change), norm(along) / 2)
        size = append_dims(size.where(size > 0, torch.ones_like(size)), z.ndim)
        along, change = along / size, change / size
        known.append((along, change))
        amount = append_dims(dot(residual, change), z.ndim).to(z)
        z, residual = z + amount * along, residual - amount * change
    return z - step.denoised, readings


def through_denoiser(step: Step, pull: Pull, inner_steps: int) -> tuple[Tensor, list[Reading]]:
    """J^T (-dE/dx0) with the exact J = d denoised / dx (DPS, Chung et al. 2022, arXiv 2209.14687): one backward more.

    The guides are weighed at the denoised picture and pulled back as one sum.
    """
    if step.pull_back is None:
        raise ValueError("through denoiser needs a model that can be differentiated")
    pulls = pull(step.denoised, torch.zeros_like(step.sigma))
    mask = 1.0 if pulls.mask is None else pulls.mask
    paper = None if pulls.paper is None else step.pull_back(pulls.paper) * mask
    relative = pulls.relative
    if relative is not None:
        relative = unit(step.pull_back(relative) * mask) * append_dims(norm(relative), relative.ndim)
    return _direction(step, Pulls(paper, relative, []), step.shift), pulls.readings


ESTIMATORS: dict[str, Estimator] = {
    EXACT: at_noisy,
    "at denoised": at_denoised,
    "at denoised optimised": at_denoised_optimised,
    THROUGH: through_denoiser,
}
