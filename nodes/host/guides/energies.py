"""A guide at one step: which energy it is, at the noisy sample or at the predicted picture."""

from __future__ import annotations

import torch
from torch import Tensor

from ....guidance.step import Energy, Step
from ....guidance.tensors import append_dims
from ....guidance.views import centred, look
from ..pictures import Decoder
from ..run import Course
from .guide import Guide


def noisy_energy(course: Course, guide: Guide, place: int, step: Step) -> Energy:
    """The guide at the noisy sample. References get noise of the same level, the same for the whole batch.

    `place` is the guide's number, which keeps its noise apart from others'.
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
    stream = (2, place, course.index(float(step.sigma[0])) if guide.fresh_noise else 0)

    def wanted(level: Tensor) -> list[Tensor]:
        if guide.reference is None:
            return [part.to(step.x).clone() for part in guide.wanted or []]
        pictures = centred(guide.reference.to(step.x), guide.size, guide.size)
        noise = torch.randn(pictures.shape, generator=course.generator(*stream)).to(pictures)
        return guide.measured(pictures + append_dims(level[:1], 4) * noise, level[:1].expand(len(pictures)))

    def energy(x: Tensor, sigma: Tensor) -> Tensor:
        x, level = step.noisy(x)
        return guide.compare(guide.measure(x, level), wanted(level))

    return energy


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
        losses = [
            guide.compare([part[view] for part in by_view], clean_wanted(guide, boxes, view, pictures))
            for view in range(len(boxes))
        ]
        frames = len(pictures) // len(z)
        return torch.stack(losses).mean(0).unflatten(0, (len(z), frames)).mean(1)

    return energy


def clean_wanted(guide: Guide, boxes: Tensor, view: int, like: Tensor) -> list[Tensor]:
    """What the guide wants to see in a view of pictures `like`: the reference through the same crops, measured once."""
    if guide.reference is None:
        return [part.to(like).clone() for part in guide.wanted or []]
    boxes = boxes if guide.same_view else boxes[:1]
    key = (tuple(boxes.flatten().tolist()), tuple(like.shape[-2:]))
    if key not in guide.cache:
        pictures = centred(guide.reference.to(like), *like.shape[-2:])
        seen = look(pictures, boxes, guide.size)
        measured = guide.measured(seen, seen.new_zeros(len(seen)))
        guide.cache[key] = [part.unflatten(0, (len(boxes), len(pictures))).cpu() for part in measured]
    return [part[view if guide.same_view else 0].to(like.device) for part in guide.cache[key]]
