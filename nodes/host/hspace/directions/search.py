"""Finding directions of h-space without training: contrasts and principal components over runs of a MODEL."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import comfy.model_management as mm
import comfy.sample
import comfy.utils
import torch
from torch import Tensor

from .....guidance.hspace import principal
from .....guidance.weight import Weight
from ...inversion import inversion_sigmas, inverted
from ...model import owner_of
from ...sampling import sampled
from ..edit import BOTH, Application, Edit, direction_edit
from ..record import Means, recording
from ..run import applied

SHEET = (-2.0, -1.0, 0.0, 1.0, 2.0)  # strengths of a contact sheet
AT_ONCE = 8


def recorded(
    model: Any, block: int | None, starts: Tensor, run: Callable[[Any, Tensor], Any], bar: Any
) -> Iterator[Means]:
    """h of runs from these starts, a part of them at a time."""
    for part in starts.split(AT_ONCE):
        mm.throw_exception_if_processing_interrupted()
        means = Means()
        run(recording(model, means.add, block), part)
        yield means
        bar.update(len(part))


def along_inversions(
    model: Any, block: int | None, conditioning: Any, pictures: Tensor, steps: int, bar: Any
) -> Tensor:
    """h of latents of pictures on their way to noise, [N 8 C h w]."""
    sigmas = inversion_sigmas(model, steps, "")
    runs = recorded(model, block, pictures, lambda model, part: inverted(model, part, conditioning, sigmas), bar)
    return torch.cat([means.of("positive") for means in runs])


def difference(model: Any, block: int | None, delta_h: Tensor) -> list[Edit]:
    """A contrast as a direction of its model."""
    owner, fingerprint = owner_of(model)
    return [direction_edit(delta_h, name="contrast", model=owner, fingerprint=fingerprint, block=block)]


def contrast(
    model: Any, positive: Any, negative: Any, noise: Tensor, steps: int, block: int | None = None
) -> list[Edit]:
    """Mean difference of h between two conditions at the same noisy pictures, for each range of progress.

    The pictures are those of samples under `negative`, where an edit by the difference will begin: of two runs of their
    own h would also hold what else the pictures became.
    """
    bar = comfy.utils.ProgressBar(len(noise))
    runs = recorded(
        model, block, noise, lambda model, part: sampled(model, negative, part, steps, beside=positive), bar
    )
    return difference(model, block, torch.cat([means.of("negative") - means.of("positive") for means in runs]).mean(0))


def contrast_of_pictures(
    model: Any, conditioning: Any, pair: tuple[Tensor, Tensor], steps: int, block: int | None = None
) -> list[Edit]:
    """Difference of the mean h of two sets of pictures (latents), for each range of progress.

    (Haas et al. 2023, arXiv 2303.11073: supervised directions.)
    """
    bar = comfy.utils.ProgressBar(sum(len(pictures) for pictures in pair))
    first, second = (along_inversions(model, block, conditioning, pictures, steps, bar).mean(0) for pictures in pair)
    return difference(model, block, first - second)


def check_samples(components: int, samples: int) -> None:
    """Raises ValueError for too few samples to take so many components from."""
    if samples <= components:
        raise ValueError(f"{components} components need more than {components} samples, {samples} were asked for")


def principal_components(
    model: Any, positive: Any, noise: Tensor, steps: int, count: int, block: int | None = None
) -> list[Edit]:
    """Principal components of h over samples; strength 1 is one deviation. Raises ValueError for too few samples."""
    check_samples(count, len(noise))
    bar = comfy.utils.ProgressBar(len(noise))
    runs = recorded(model, block, noise, lambda model, part: sampled(model, positive, part, steps), bar)
    _, found, deviations = principal(torch.cat([means.of("positive") for means in runs]), count)
    owner, fingerprint = owner_of(model)
    return [
        direction_edit(delta_h * size, name=f"component {k + 1}", model=owner, fingerprint=fingerprint, block=block)
        for k, (delta_h, size) in enumerate(zip(found, deviations, strict=True))
    ]


def sheet(model: Any, edits: Sequence[Edit], positive: Any, noise: Tensor, steps: int) -> Tensor:
    """Latents of one noise under each edit at the strengths of SHEET, row by row."""
    rows: list[Tensor] = []
    bar = comfy.utils.ProgressBar(len(edits) * len(SHEET))
    for edit in edits:
        for strength in SHEET:
            mm.throw_exception_if_processing_interrupted()
            job = Application([edit], Weight(strength), True, BOTH, False, None)
            edited = applied(model, job, job.patchers) if strength else model
            rows.append(sampled(edited, positive, noise[:1], steps))
            bar.update(1)
    return torch.cat(rows)
