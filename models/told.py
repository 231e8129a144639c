"""What the user of a file knows better than its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from .architecture import Checkpoint
from .imagen import STAGES, as_stage

AUTO = "auto"
HEADS: dict[str, dict[str, Any]] = {
    AUTO: {},
    "1 head": {"num_heads": 1, "head_channels": None},
    "4 heads": {"num_heads": 4, "head_channels": None},
    "8 heads": {"num_heads": 8, "head_channels": None},
    "32 channels a head": {"head_channels": 32},
    "64 channels a head": {"head_channels": 64},
    "16 channels a head": {"head_channels": 16},
    "128 channels a head": {"head_channels": 128},
}
ORDERS = {AUTO: None, "legacy": False, "new": True}
RESCALING = {AUTO: None, "no": False, "yes": True}
IF_STAGES = (AUTO, *STAGES)


LIMITS = {"num_heads": (1, 64), "training_steps": (50, 10000), "image_size": (8, 4096)}  # 0 aside


@dataclass(frozen=True)
class Told:
    """Choices of a loader's user. AUTO and 0 leave a matter to the file, or to what is usual."""

    schedule: str = AUTO
    heads: str = AUTO  # of HEADS
    num_heads: int = 0
    attention_order: str = AUTO  # of ORDERS
    training_steps: int = 0
    rescale_timesteps: str = AUTO  # of RESCALING
    image_size: int = 0
    if_stage: str = AUTO  # of IF_STAGES

    def __post_init__(self) -> None:
        """Raises ValueError for numbers that no training had. Widgets can't say it: theirs begin at 0."""
        for name, (least, most) in LIMITS.items():
            value = getattr(self, name)
            if value and not least <= value <= most:
                raise ValueError(f"{name} is {value}; 0 or {least} to {most} are possible")

    @property
    def named(self) -> set[str]:
        """The inputs that were chosen."""
        chosen = {field.name for field in fields(self) if getattr(self, field.name) != field.default}
        return chosen | ({"heads"} if self.num_heads else set())

    def of(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint so configured. Raises ValueError for heads and orders that it can't have."""
        config = self._attention(checkpoint)
        if self.if_stage != AUTO:
            config = as_stage(config, self.if_stage)
        if config != checkpoint.config:
            with torch.device("meta"):
                checkpoint.architecture.build(config)
        stated = {
            "schedule": None if self.schedule == AUTO else self.schedule,
            "training_steps": self.training_steps or None,
            "rescale_timesteps": RESCALING[self.rescale_timesteps],
            "image_size": self.image_size or None,
        }
        facts = replace(checkpoint.facts, **{key: value for key, value in stated.items() if value is not None})
        left = {key: value for key, value in checkpoint.guesses.items() if key not in self.named}
        return replace(checkpoint, config=config, facts=facts, guesses=left)

    def _attention(self, checkpoint: Checkpoint) -> Any:
        """Its configuration with the chosen heads and order."""
        chosen = HEADS[self.heads]
        if self.num_heads:
            if chosen:
                raise ValueError(f"heads is {self.heads!r} and num_heads {self.num_heads}; choose one, and {AUTO} or 0")
            chosen = {"num_heads": self.num_heads, "head_channels": None}
        order = ORDERS[self.attention_order]
        if order is not None:
            chosen = {**chosen, "new_attention_order": order}
        if chosen and not hasattr(checkpoint.config, "head_channels"):
            raise ValueError(f"{checkpoint.name} is {checkpoint.architecture.title}, whose heads are fixed; use {AUTO}")
        return replace(checkpoint.config, **chosen) if chosen else checkpoint.config


def remark(name: str, guesses: Mapping[str, str]) -> str:
    """What was assumed of a file, for its user; empty where nothing was."""
    if not guesses:
        return ""
    assumed = ", ".join(f"{key} = {value}" for key, value in guesses.items())
    return (
        f"{name} is no file that is known here, and weights don't tell everything. Assumed: {assumed}. A wrong value "
        "gives noise or weak guides and no error: if you know better, choose it in the loader"
    )
