"""The conditions of a CFG Combiner, and the predictions that they need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import node_helpers
from torch import Tensor

from ....guidance.weight import Weight
from .plan import Plan
from .references import PERTURBED, RANDOM, TIME

NEGATIVE, NONE, PARENT, MODEL = "negative", "none", "parent", "model"
REFERENCES = (NEGATIVE, NONE, PARENT, MODEL, PERTURBED, RANDOM, TIME)
MAIN = "positive"  # the host's name for the first condition: its bits are those of CFGGuider
PLAIN = "plain"


@dataclass(frozen=True, eq=False)
class Condition:
    """One condition of the combiner: what, how strong, where and when, and measured against what."""

    conditioning: Any
    weight: Weight
    reference: str = NEGATIVE
    mask: Tensor | None = None
    parent: Condition | None = None
    model: Any | None = None

    def __post_init__(self) -> None:
        if self.reference == PARENT and self.parent is None:
            raise ValueError("the condition is measured against its parent, and none is wired; connect parent")
        if self.reference == MODEL and self.model is None:
            raise ValueError("the condition is measured against a second model, and none is wired; connect model")


@dataclass(frozen=True)
class Evaluation:
    """One prediction: of which conditioning of the guider, and how."""

    conds: str
    how: str = PLAIN
    model: int = 0  # number of the second model, for how = MODEL


@dataclass(frozen=True, eq=False)
class Part:
    """A condition, its prediction, and its reference (None: against nothing)."""

    condition: Condition
    prediction: Evaluation
    reference: Evaluation | None


NEGATIVE_PREDICTION = Evaluation("negative")


def named(conditioning: Any, conds: dict[str, Any]) -> str:
    """The guider's name for a conditioning: the same one is evaluated once, however often it is wired."""
    for key, known in conds.items():
        if known is conditioning:
            return key
    key = f"condition {len(conds) + 1}"
    conds[key] = conditioning
    return key


def always_one(condition: Condition, plan: Plan) -> bool:
    """Whether the negative never counts."""
    return condition.weight.value == 1 and plan.renoised is None and condition.mask is None


def of_kind(key: str, conditioning: Any) -> Any:
    """The conditioning as the host knows positive and negative ones."""
    if key in (MAIN, "negative"):
        return conditioning
    return node_helpers.conditioning_set_values(conditioning, {"prompt_type": MAIN})


def beside(model: Any, second: Any) -> Any:
    """A second model to be loaded with the first. Raises ValueError where both are the same weights, patched twice."""
    if second.is_clone(model) and second.patches_uuid != model.patches_uuid:
        raise ValueError(
            "the second model has the same weights in memory as the main one, with other LoRAs or merges, so the host "
            "can't hold both; load its checkpoint with a loader node of its own, from a copy of the file"
        )
    return second.clone()
