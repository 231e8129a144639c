"""A guide at one step: which energy it is, at the noisy sample or at the predicted picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ....guidance.noise import level_bits, own_noise
from ....guidance.step import Energy, Step
from ....guidance.tensors import append_dims
from ....guidance.views import centred, look, sampling_grid
from ..pictures import Decoder
from ..run import Course
from .guide import Features, Guide
from .references import Measured, References

REFERENCE_NOISE = 2  # keeps it apart from other noise of the same seed


def noisy_energy(
    course: Course, guide: Guide, place: int, numbers: Sequence[int], step: Step, level: float, sight: Sight
) -> Energy:
    """The guide at the noisy sample. References get noise of the same `level` of sigma, for each picture its own.

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
    purpose = (REFERENCE_NOISE, place, level_bits(level) if guide.fresh_noise else 0)

    def energy(x: Tensor, sigma: Tensor) -> Tensor:
        x, sigma = step.noisy(x)
        found = sight.measured(guide, x, sigma)
        if guide.reference is None:
            return guide.compare(found, sight.wanted(guide))
        pictures = centred(guide.reference.to(step.x), guide.size, guide.size)
        noise = own_noise((len(x), *pictures.shape), course.seed, numbers, *purpose).to(pictures)
        wanted = _noisy_references(guide, pictures, noise, sigma)
        return guide.compare([part[:, None] for part in found], wanted)[:, 0]

    return energy


def _noisy_references(guide: Guide, pictures: Tensor, noise: Tensor, level: Tensor) -> Measured:
    """What the guide sees in n references [n 3 h w] under noise [B n 3 h w] of levels [B]: [B n ...] each."""
    noisy = pictures + append_dims(level, noise.ndim) * noise
    measured = guide.measured(noisy.flatten(0, 1), level.repeat_interleave(len(pictures)))
    return [part.unflatten(0, noise.shape[:2]) for part in measured]


def colour_energy(guide: Guide, decoder: Decoder, sight: Sight) -> Energy:
    """The guide at the colours of the predicted sample."""

    def energy(z: Tensor, sigma: Tensor) -> Tensor:
        return guide.compare(guide.measure(decoder.colours(z), sigma), sight.wanted(guide))

    return energy


def clean_energy(guide: Guide, sight: Sight) -> Energy:
    """The guide at the predicted picture [B*F 3 H W] through several views; the mean over views and frames."""

    def energy(pictures: Tensor, sigma: Tensor) -> Tensor:
        views = len(sight.boxes)
        measured = sight.measured(guide, sight.looked(guide.size, pictures), None)
        wanted = sight.clean_wanted(guide, pictures)
        by_view = [part.unflatten(0, (views, -1)) for part in measured]
        if guide.across:  # pictures of one view and frame
            losses = guide.compare([part.unflatten(1, (len(sigma), -1)).movedim(1, -2) for part in by_view], [])
            losses = losses.movedim(-1, 1)
        elif not wanted:  # a classifier's labels are those of a batch
            losses = torch.cat([guide.compare([part[view] for part in by_view], []) for view in range(views)])
        elif len(wanted[0]) > 1:  # each view has its own
            losses = guide.compare(by_view, wanted)
        else:
            losses = guide.compare(measured, [part[0] for part in wanted])
        return losses.reshape(views, len(sigma), -1).mean((0, 2))

    return energy


@dataclass(eq=False)
class Sight:
    """What guides of one application see at a step: each view and each pass of an encoder once, whoever asks."""

    guides: Sequence[Guide]
    boxes: Tensor  # of the views, [V 4]
    near: Near
    known: dict[Any, tuple[Tensor, Any]] = field(default_factory=dict)  # by what was done with a tensor; the last ones

    def looked(self, size: int, pictures: Tensor) -> Tensor:
        """Pictures [B 3 H W] through the views, [V*B 3 size size]."""

        def see() -> Tensor:
            return look(pictures, self.boxes, size, self.near.grid(self.boxes, size, pictures))

        return self._once(("view", size), pictures, see)

    def measured(self, guide: Guide, pictures: Tensor, sigma: Tensor | None) -> Measured:
        """What a guide measures, by a pass of its encoder that has all features that guides of it look at."""
        measure = guide.measure
        if not isinstance(measure, Features):
            return measure(pictures, sigma)
        encoder, theirs = measure.encoder, [one.measure for one in (*self.guides, guide)]
        alike = [other for other in theirs if isinstance(other, Features) and other.encoder.network is encoder.network]
        names = dict.fromkeys(name for other in alike for name in other.names)
        found = self._once(
            (id(encoder.network), *names), pictures, lambda: encoder.encode(pictures, sigma, list(names))
        )
        return measure.of(found)

    def wanted(self, guide: Guide) -> Measured:
        """What a guide without a reference wants, [n ...] each."""
        return self.near.get(id(guide), lambda: [part.float().clone() for part in guide.wanted or []])

    def clean_wanted(self, guide: Guide, pictures: Tensor) -> Measured:
        """What a guide wants to see in each view of clean pictures, [V n ...], or in all, [1 n ...].

        A reference is seen through the same crops and measured once.
        """
        if guide.reference is None:
            return [part[None] for part in self.wanted(guide)]
        boxes = self.boxes if guide.same_view else self.boxes[:1]
        key = (*guide.reference_key, tuple(boxes.flatten().tolist()), tuple(pictures.shape[-2:]))

        def measure() -> Measured:
            assert guide.reference is not None
            references = centred(guide.reference.to(pictures), *pictures.shape[-2:])
            measured = guide.measured(look(references, boxes, guide.size), None)
            return [part.unflatten(0, (len(boxes), len(references))) for part in measured]

        return self.near.get((id(guide.references), key), lambda: guide.references.get(key, measure))

    def _once(self, key: Any, x: Tensor, make: Callable[[], Any]) -> Any:
        if key not in self.known or self.known[key][0] is not x:
            self.known[key] = (x, make())
        return self.known[key][1]


class Near(References):
    """What a run keeps on the sample's device, so that its steps wait for no copies."""

    def grid(self, boxes: Tensor, size: int, like: Tensor) -> Tensor | None:
        """The `sampling_grid` of views; None where a single one needs none."""
        if len(boxes) == 1:
            return None
        return self.get((size, *boxes.flatten().tolist()), lambda: [sampling_grid(boxes, size).to(like)])[0]
