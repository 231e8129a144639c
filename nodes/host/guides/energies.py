"""A guide at one step: which energy it is, at the noisy sample or at the predicted picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ....guidance.noise import level_bits, own_noise
from ....guidance.step import Energy, Step
from ....guidance.tensors import append_dims
from ....guidance.views import centred, look
from ..pictures import Decoder
from ..run import Course
from .guide import Guide
from .references import Measured

REFERENCE_NOISE = 2  # keeps it apart from other noise of the same seed


def noisy_energy(course: Course, guide: Guide, place: int, numbers: Sequence[int], step: Step) -> Energy:
    """The guide at the noisy sample. References get noise of the same level, for each picture its own.

    `place` is the guide's number, which keeps its noise apart from others'; `numbers` are those of the pictures.
    Raises ValueError for samples of another size than the guide's, and for noise of another size than 1.
    """
    scale = getattr(course.sampling, "noise_scale", 1.0)
    if scale != 1:
        raise ValueError(
            f"this model's noise has the size {scale:g} and not 1, which the guide '{guide.name}' has never seen; use "
            "gradient = at denoised"
        )
    height, width = step.x.shape[-2:]
    if step.x.ndim != 4 or (height, width) != (guide.size, guide.size):
        raise ValueError(
            f"{guide.owner} of the guide '{guide.name}' looks at noisy pictures of {guide.size} x {guide.size}, the "
            f"sample is {width} x {height}; use that size, or gradient = at denoised"
        )
    purpose = (REFERENCE_NOISE, place, level_bits(float(step.sigma[0])) if guide.fresh_noise else 0)

    def energy(x: Tensor, sigma: Tensor) -> Tensor:
        x, level = step.noisy(x)
        found = guide.measure(x, level)
        if guide.reference is None:
            return guide.compare(found, [part.to(step.x).clone() for part in guide.wanted or []])
        pictures = centred(guide.reference.to(step.x), guide.size, guide.size)
        noise = own_noise((len(x), *pictures.shape), course.seed, numbers, *purpose).to(pictures)
        wanted = _noisy_references(guide, pictures, noise, level)
        rows = [([f[k : k + 1] for f in found], [w[k] for w in wanted]) for k in range(len(x))]
        return torch.cat([guide.compare(*row) for row in rows])

    return energy


def _noisy_references(guide: Guide, pictures: Tensor, noise: Tensor, level: Tensor) -> Measured:
    """What the guide sees in n references [n 3 h w] under noise [B n 3 h w] of levels [B]: [B n ...] each."""
    noisy = pictures + append_dims(level, noise.ndim) * noise
    measured = guide.measured(noisy.flatten(0, 1), level.repeat_interleave(len(pictures)))
    return [part.unflatten(0, noise.shape[:2]) for part in measured]


def colour_energy(guide: Guide, decoder: Decoder) -> Energy:
    """The guide at the colours of the predicted sample."""

    def energy(z: Tensor, sigma: Tensor) -> Tensor:
        return guide.compare(
            guide.measure(decoder.colours(z), sigma), [part.to(z).clone() for part in guide.wanted or []]
        )

    return energy


def clean_energy(guide: Guide, decoder: Decoder, boxes: Tensor, smallest: float) -> Energy:
    """The guide at the predicted picture through several views [V 4]; the mean over views and frames.

    `smallest`: pixels that the picture should at least have for the guides of the application.
    """

    def energy(z: Tensor, sigma: Tensor) -> Tensor:
        pictures = decoder.pixels(z, smallest)
        seen = look(pictures, boxes, guide.size)
        measured = guide.measure(seen, sigma[:1].expand(len(seen)))
        by_view = [part.unflatten(0, (len(boxes), len(pictures))) for part in measured]
        wanted = clean_wanted(guide, boxes, pictures)
        losses = [
            guide.compare([part[view] for part in by_view], [part[view % len(part)] for part in wanted])
            for view in range(len(boxes))
        ]
        frames = len(pictures) // len(z)
        return torch.stack(losses).mean(0).unflatten(0, (len(z), frames)).mean(1)

    return energy


def clean_wanted(guide: Guide, boxes: Tensor, like: Tensor) -> Measured:
    """What the guide wants to see in each view of pictures `like`, [V n ...], or in all, [1 n ...].

    A reference is seen through the same crops and measured once.
    """
    if guide.reference is None:
        return [part.to(like).clone()[None] for part in guide.wanted or []]
    reference = guide.reference
    boxes = boxes if guide.same_view else boxes[:1]

    def measure() -> Measured:
        pictures = centred(reference.to(like), *like.shape[-2:])
        seen = look(pictures, boxes, guide.size)
        measured = guide.measured(seen, seen.new_zeros(len(seen)))
        return [part.unflatten(0, (len(boxes), len(pictures))) for part in measured]

    key = (*guide.reference_key, tuple(boxes.flatten().tolist()), tuple(like.shape[-2:]))
    return [part.to(like.device) for part in guide.references.get(key, measure)]
