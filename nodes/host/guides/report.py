"""What guides did in a model's last run, as numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

import torch
from comfy_execution.utils import get_executing_context
from torch import Tensor

from ....guidance.combine import Steered
from ....guidance.gradient import Reading


def prompt_id() -> str | None:
    """Of the workflow that is being executed."""
    context = get_executing_context()
    return None if context is None else context.prompt_id


@dataclass
class Report:
    """One application's readings, a row for each guide and evaluation; means over the batch.

    They stay on the model's device until `finish`, so that no step waits for them.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    runs: int = 0
    prompt: str | None = None  # workflow of the last run
    decoder: str = ""  # how the guides get pixels of latents; empty: they need none
    scored: frozenset[str] = frozenset()  # guides whose loss is minus a score
    idle: str = ""  # why the guides did nothing in the last run, if they could not

    def begin(self, idle: str = "") -> None:
        self.rows, self.looks, self.idle = [], [], idle
        self.runs += 1
        self.prompt = prompt_id()

    def add(self, sigma: float, progress: float, steered: Steered) -> None:
        self.looks += [(sigma, progress, reading, steered.capped) for reading in steered.readings]

    def finish(self) -> list[str]:
        """Makes rows of what the run found; returns the guides that had gradients left out as NaN or infinite."""
        looks, self.looks = self.looks, []
        for (sigma, progress, reading, _), (loss, grad_norm, lambda_, capped, dropped) in _numbers(looks):
            self.rows.append(
                {
                    "guide": reading.name,
                    "sigma": round(sigma, 5),
                    "progress": round(progress, 4),
                    "loss": _mean(loss),
                    "grad_norm": _mean(grad_norm),
                    "lambda": _mean(lambda_),
                    "capped": _mean(capped),
                    "dropped": _mean(dropped),
                }
            )
            if reading.name.removeprefix(CONTROL) in self.scored and self.rows[-1]["loss"] is not None:
                self.rows[-1]["score"] = -self.rows[-1]["loss"]
        return list(dict.fromkeys(row["guide"] for row in self.rows if row["dropped"]))


CONTROL = "control: "  # before the name of a guide that only watched
Look = tuple[float, float, Reading, Tensor]  # sigma, progress, one guide's reading, which samples were capped [B]


def _numbers(looks: list[Look]) -> Iterator[tuple[Look, list[list[float]]]]:
    """Each look with its five numbers for each sample; the device is waited for once."""
    if not looks:
        return
    kinds = zip(*[(r.loss, r.grad_norm, r.lambda_, capped, r.dropped) for _, _, r, capped in looks], strict=True)
    values = torch.stack([torch.cat(kind).float() for kind in kinds]).tolist()
    start = 0
    for look in looks:
        end = start + len(look[2].loss)
        yield look, [row[start:end] for row in values]
        start = end


def _mean(values: list[float]) -> float | None:
    """Of those that are finite; None if none is, which JSON can say and NaN it can't."""
    finite = [value for value in values if math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite else None


def by_guide(reports: list[Report]) -> dict[str, list[dict[str, Any]]]:
    """All rows, in the order of the run."""
    found: dict[str, list[dict[str, Any]]] = {}
    for report in reports:
        for row in report.rows:
            found.setdefault(row["guide"], []).append({key: value for key, value in row.items() if key != "guide"})
    return found


def relative(losses: Sequence[float]) -> list[float]:
    """Losses in units of the first one's size, from 1: loss / first where that is above 0."""
    unit = abs(losses[0]) or 1.0
    return [1 + (loss - losses[0]) / unit for loss in losses]


WEAK, CUT, FALLEN = 0.05, 0.5, 0.98  # largest lambda, share of capped samples, loss at the end relative to its start


def verdict(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """What a guide's numbers mean and what to do, in a line.

    A loss that rises is no fault by itself: that of a noise-aware guide rises as the noise goes.
    """
    lambdas, capped, losses = (
        [row[key] for row in rows if row[key] is not None] for key in ("lambda", "capped", "loss")
    )
    if not lambdas or not losses:
        return f"{name}: no number of it is finite; use another encoder"
    push, cut, left = max(lambdas), mean(capped), relative(losses)[-1]
    went = f"loss {100 * left:.0f} % of its start"
    if "score" in rows[-1]:
        went = f"score {-losses[0]:.3g} to {-losses[-1]:.3g}"
    if name.startswith(CONTROL):
        blind = "; the guides may please their own network alone: lower the weight, or take more views"
        return f"{name} sees {'a' if left < FALLEN else 'no'} rise ({went})" + blind * (left >= FALLEN)
    if push < WEAK:
        return f"{name} hardly acts (lambda at most {push:.2g}, {went}): raise its weight"
    if cut <= CUT:
        return f"{name} acts (lambda up to {push:.2g}, {went})"
    if left < FALLEN:
        return f"{name} is cut in {100 * cut:.0f} % of its looks ({went}): lower its weight, or raise cap"
    return f"{name} is cut in {100 * cut:.0f} % of its looks and doesn't arrive ({went}): another encoder or more views"


NOTHING = (
    "no guide was active in the last run: every weight or window was empty, or a Diversity Guide had one picture alone"
)


def decoders(reports: list[Report]) -> str:
    """How guides got pixels of latents, in a few words; empty if no guide needed any."""
    return ", ".join(dict.fromkeys(report.decoder for report in reports if report.decoder))


def remark(reports: list[Report]) -> str:
    """What a reader of the numbers should know; empty if nothing."""
    if not reports:
        return "this MODEL has no guides; connect the MODEL output of Apply Guides"
    if not any(report.runs for report in reports):
        return "this MODEL has not sampled yet: samples were made by another one, or came from the cache"
    for report in reports:
        if report.idle:
            return report.idle
    if not any(report.rows for report in reports):
        return NOTHING
    if all(report.prompt != prompt_id() for report in reports):
        return "samples came from the cache; these are the numbers of the run that made them"
    return ""
