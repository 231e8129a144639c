"""What the wrappers of an edited run must know, and how its network's output is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import comfy.model_management as mm
import torch
from torch import Tensor

from ....guidance.hspace import steps_of_a_whole_run
from ..run import Course
from .edit import Edits, Place
from .halves import Evaluate, Halves, Options, halves_of
from .rows import names_of, views_of
from .steps import EditedSteps
from .stream import stream_halves

KEY = "diffusion_guidance_hspace"
MARGIN = 1.5  # of memory, as the host keeps it where it batches conditions
Reading = tuple[Tensor, Tensor, Tensor]  # a, b, scale: denoised = a x + b output, input = scale x


@dataclass(eq=False)
class EditedRun:
    """What the network's wrapper must know of a run."""

    course: Course
    jobs: Sequence[Edits]
    steps: EditedSteps | None  # None: no edit is asymmetric
    block: int | None = None  # of a transformer
    inside: bool | None = None  # whether the network calls wrappers of its own; None: not known yet
    cut: list[bool] = field(default_factory=list)  # for each look whether h came by
    networks: dict[Any, Any] = field(init=False)  # by their model: hooks also come by where another MODEL is asked

    def __post_init__(self) -> None:
        """Asks for the networks as the run begins: in a look torch.compile stands in the MODEL for them."""
        model = self.course.model
        clones = model.get_additional_models_with_key("multigpu")
        self.networks = {part.model: part.model.diffusion_model for part in (model, *clones)}

    @cached_property
    def others(self) -> Sequence[str]:
        """Names of the guider's conditionings that another MODEL predicts, perhaps with the same network."""
        second = getattr(self.course.guider, "uncond_model_patcher", None)  # of the host's DualModelGuider
        same = second is None or second.get_attachment(KEY) is self.course.model.get_attachment(KEY)
        return () if same else ("negative",)

    @cached_property
    def progress(self) -> Sequence[float]:
        """Of the schedule's noise levels."""
        return [self.course.progress_of(sigma) for sigma in self.course.sigmas if sigma > 0]

    def fits(self, halves: Halves, rows: int) -> bool:
        """Whether there is memory for a decoder half in float32 with so many rows."""
        share = torch.float32.itemsize / halves.h.element_size()  # the host reckons in the network's precision
        needed = self.course.model.model.memory_required([int(rows * share), *halves.plain.shape[1:]])
        return bool(needed * MARGIN < mm.get_free_memory(halves.h.device))

    def place(self, options: Options, x: Tensor) -> Place:
        sigma = self.course.level(options["sigmas"])
        steps = steps_of_a_whole_run(self.progress, max(0, self.course.index(sigma))) if self.progress else 1.0
        names = names_of(options, self.course.guider.conds)
        return Place(sigma, self.course.progress_of(sigma), steps, views_of(options, x), names)

    def reading(self, level: Tensor) -> Reading:
        """Of the network's output: whatever it predicts, its `sampling` is asked."""
        sampling = self.course.sampling
        one, zero = level.new_ones(1, 1, 1, 1), level.new_zeros(1, 1, 1, 1)
        a, b = sampling.calculate_denoised(level, zero, one), sampling.calculate_denoised(level, one, zero)
        return a, b, sampling.calculate_input(level, one)

    def halves(
        self, network: Any, evaluate: Evaluate, x: Tensor, options: Options, args: Sequence[Any], kwargs: Options
    ) -> Halves | Tensor:
        """Of one evaluation; the output alone where a step cache kept the network from running.

        Raises ValueError where a transformer never shows what is behind its blocks.
        """
        if self.block is None:
            return halves_of(network, evaluate, options, kwargs)
        found = stream_halves(network, self.block, evaluate, options, x, [*args, *kwargs.values()])
        self.cut.append(isinstance(found, Halves))
        if not any(self.cut):
            raise ValueError(
                f"HSpace Edit: {type(network).__name__} doesn't show what is behind its block {self.block}, so there "
                "is nothing to edit; use another model, or a guide; a step cache belongs in front of HSpace Edit"
            )
        return found


def clean_reading(level: Tensor) -> Reading:
    """Of an output that is the prediction of x0."""
    one = level.new_ones(1, 1, 1, 1)
    return torch.zeros_like(one), one, one
