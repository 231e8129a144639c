"""Finding directions of h-space without training: contrasts and principal components over samples of a MODEL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management as mm
import comfy.sample
import comfy.utils
import torch
from torch import Tensor

from ...guidance.hspace import BUCKETS, principal
from ...guidance.weight import Weight
from .hspace import BOTH, Application, Edit, Moment, applied, direction_edit, owner_of

SHEET = (-2.0, -1.0, 0.0, 1.0, 2.0)  # strengths of a contact sheet
AT_ONCE = 8


@dataclass(eq=False)
class Recorder:
    """An application that changes nothing and keeps the mean of h in each range of progress."""

    weight: Weight = field(default_factory=lambda: Weight(1.0))
    asymmetric: bool = False
    side: str = BOTH
    sums: dict[int, Tensor] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)

    def edited(self, h: Tensor, emb: Tensor, moment: Moment) -> Tensor:
        bucket = min(BUCKETS - 1, int(moment.progress * BUCKETS))
        self.sums[bucket] = self.sums.get(bucket, 0) + h.detach().float().cpu()
        self.counts[bucket] = self.counts.get(bucket, 0) + 1
        return h

    def means(self) -> Tensor:
        """[N 8 C h w]; ranges that no step fell into take their nearest neighbour's."""
        found = {bucket: total / self.counts[bucket] for bucket, total in self.sums.items()}
        nearest = [min(found, key=lambda known: abs(known - bucket)) for bucket in range(BUCKETS)]
        return torch.stack([found[bucket] for bucket in nearest], dim=1)


def start_noise(model: Any, shape: Sequence[int], seed: int, count: int) -> Tensor:
    """[count ...], picture i by seed + i."""
    parts = [torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed + k)) for k in range(count)]
    return torch.stack(parts)


def sampled(model: Any, positive: Any, noise: Tensor, steps: int) -> Tensor:
    """Latents of a plain run of euler, without CFG."""
    empty = torch.zeros_like(noise)
    return comfy.sample.sample(
        model, noise, steps, 1.0, "euler", "normal", positive, positive, empty, disable_pbar=True, seed=0
    )


def recorded(model: Any, positive: Any, noise: Tensor, steps: int, bar: Any) -> Tensor:
    """h of runs from these noises, [N 8 C h w]."""
    parts: list[Tensor] = []
    for part in noise.split(AT_ONCE):
        mm.throw_exception_if_processing_interrupted()
        recorder: Any = Recorder()
        sampled(applied(model, recorder), positive, part, steps)
        parts.append(recorder.means())
        bar.update(len(part))
    return torch.cat(parts)


def contrast(model: Any, positive: Any, negative: Any, noise: Tensor, steps: int, name: str) -> list[Edit]:
    """Mean difference of h between two conditions, from the same noises, for each range of progress."""
    bar = comfy.utils.ProgressBar(2 * len(noise))
    first, second = (recorded(model, part, noise, steps, bar) for part in (positive, negative))
    owner, fingerprint = owner_of(model)
    return [direction_edit((first - second).mean(0), name=name, model=owner, fingerprint=fingerprint)]


def principal_components(model: Any, positive: Any, noise: Tensor, steps: int, count: int) -> list[Edit]:
    """Principal components of h over samples; strength 1 is one deviation. Raises ValueError for too few samples."""
    if len(noise) <= count:
        raise ValueError(f"{count} components need more than {count} samples, {len(noise)} were asked for")
    bar = comfy.utils.ProgressBar(len(noise))
    _, found, deviations = principal(recorded(model, positive, noise, steps, bar), count)
    owner, fingerprint = owner_of(model)
    return [
        direction_edit(delta_h * size, name=f"component {k + 1}", model=owner, fingerprint=fingerprint)
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
            rows.append(sampled(applied(model, job) if strength else model, positive, noise[:1], steps))
            bar.update(1)
    return torch.cat(rows)
