"""Reference Dial at work: every prediction of a MODEL with its reference against the same without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.sampler_helpers
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ....guidance.weight import Weight
from ..cfg.coverage import Covers, both, own_conds, towards
from ..hspace.rows import RANDOM, WITHOUT
from ..run import Course, Feature, attach, attached, state_in
from .references import shows_a_picture, without_pictures

KEY = "diffusion_guidance_reference_dial"
NODE = "Reference Dial"
AS_IT_IS = 1.0


@dataclass(frozen=True, eq=False)
class Dial:
    """How much the reference counts, and what the guider's conditionings, by name, say without it; None: derived."""

    weight: Weight
    without: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class DialledRun:
    """State of one run. `names` of the guider's conditionings by the uuids of what they are made of."""

    course: Course
    dial: Dial
    names: Mapping[Any, str]
    covers: Covers

    def without(self, conds: Sequence[Any] | None, x: Tensor, options: Mapping[str, Any]) -> Any:
        """What stands for a list of conds where the reference is left out; None where it shows none."""
        found = self.course.guider.conds.get(f"{WITHOUT}{self.names.get(conds[0]['uuid'])}") if conds else None
        window = options["transformer_options"].get("context_window")
        if found is None or window is None:
            return found
        shape = [*x.shape]
        shape[window.dim] = window.total_frames
        whole = x.new_empty(()).expand(shape)  # the host asks for its size alone
        return options["context_handler"].get_resized_cond(found, whole, window, x.device)

    def between(
        self, dial: float, conds: Any, others: Any, seen: Tensor, bare: Tensor, x: Any, timestep: Any
    ) -> Tensor:
        """D0 + d (D1 - D0) of the predictions with (D1) and without (D0), where both say something; else D1."""
        if others is None:
            return seen
        guider = self.course.guider
        name = self.names[conds[0]["uuid"]]
        sides = ((conds, guider.original_conds[name]), (others, others))
        cover = both(*(self.covers.of(own_conds(part, given), x, timestep) for part, given in sides))
        return towards(torch.lerp(bare, seen, dial), seen, cover)


def dialled(model: Any, dial: Dial) -> Any:
    """A clone of the MODEL with the dial. Raises ValueError for a second one."""
    if attached(model, FEATURE):
        raise ValueError("there is a Reference Dial in this MODEL already; remove one")
    return attach(model, FEATURE, dial)


def _begin(course: Course, parts: Sequence[Dial]) -> DialledRun:
    """Gives the guider a conditioning more for each that shows a picture: the host encodes it with the others.

    Raises ValueError where there is none, and where the dial can't act.
    """
    (dial,) = parts
    if course.second is not None:
        raise ValueError(f"{NODE} can't act on a second model; put it into the first model, or leave it out")
    conds = course.guider.conds
    names = {cond["uuid"]: name for name, part in conds.items() for cond in part}
    found = {name: _without(name, part, dial.without.get(name)) for name, part in conds.items()}
    found = {name: part for name, part in found.items() if part is not None}
    if not found:
        raise ValueError(
            f"{NODE}: no conditioning of this run shows a reference picture, so there is nothing to dial; put "
            "ReferenceLatent, TextEncodeQwenImageEdit, InstructPixToPixConditioning or the like before the sampler, or "
            "connect without"
        )
    if any(name.startswith(RANDOM) for name in found):
        raise ValueError(f"{NODE} can't act beside the reference 'random condition'; choose another reference")
    for name, part in found.items():
        conds[f"{WITHOUT}{name}"] = part
    return DialledRun(course, dial, names, Covers(course))


def _without(name: str, conds: Sequence[Any], given: Any) -> list[Any] | None:
    """Conds of a guider without their reference, as they were given or by leaving it out."""
    if given is not None:
        own = comfy.sampler_helpers.convert_cond(given)
        if any(cond.get("hooks") for cond in own):
            raise ValueError(
                f"{NODE}: what is said without the reference has hooks (a LoRA), which can't act there; remove them"
            )
    elif any(shows_a_picture(cond) for cond in conds):
        own = [without_pictures(cond) for cond in conds]
    else:
        return None
    return [{"prompt_type": name, **cond} for cond in own]


def _around_predictions(
    executor: Any, model: Any, conds: list[Any], x: Tensor, timestep: Tensor, model_options: dict[str, Any], *more: Any
) -> Any:
    """CALC_COND_BATCH: the same lists again without their pictures; at 0 instead, at 1 not at all.

    They are asked for in a second call, so that other nodes find them where they know positive and negative.
    """
    run: DialledRun | None = state_in(model_options, KEY)
    rest = (x, timestep, model_options, *more)
    if run is None or model is not run.course.guider.inner_model:  # of another model they are none of ours
        return executor(model, conds, *rest)
    dial = run.dial.weight.above(AS_IT_IS, run.course.progress_at(timestep))
    others = [run.without(part, x, model_options) for part in conds]
    if dial == AS_IT_IS or all(part is None for part in others):
        return executor(model, conds, *rest)
    if dial == 0:
        return executor(model, [own if part is None else part for own, part in zip(conds, others, strict=True)], *rest)
    seen, bare = executor(model, conds, *rest), executor(model, others, *rest)
    rows = zip(conds, others, seen, bare, strict=True)
    return [run.between(dial, *row, x, timestep) for row in rows]


FEATURE = Feature(KEY, _begin, {WrappersMP.CALC_COND_BATCH: _around_predictions}, nodes=NODE)
