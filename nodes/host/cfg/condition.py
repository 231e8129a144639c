"""The conditions of a CFG Combiner, and the predictions that they need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def refuse_masks(name: str, part: Part, conds: Sequence[Mapping[str, Any]], batch: int) -> None:
    """Raises ValueError for a mask of the condition, its own or the host's, that doesn't fit the batch."""
    own = part.condition.mask
    for mask in (own, *(cond.get("mask") for cond in conds)):
        count = 1 if mask is None or mask.ndim < 3 else len(mask)
        if batch % count or (mask is own and count not in (1, batch)):
            raise ValueError(
                f"CFG Combiner: the mask of {name} has {count} pictures for a batch of {batch}; give one, or {batch}"
            )
