"""Directions of h-space as files: the pack's own, and the published delta blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ...models.asyrp import read_blocks
from ...models.state_dict import CheckpointError, read
from .folders import next_file
from .hspace import DIRECTION, Edit, direction_edit, network_edit

KIND = "hspace_edit"


def save_edit(edit: Edit, prefix: str) -> str:
    """Writes an edit where Load HSpace Direction finds it; nothing is overwritten. The file's name."""
    path, name = next_file("directions", prefix)
    record = {"kind": KIND, "form": edit.kind, "name": edit.name, "model": edit.model, "fingerprint": edit.fingerprint}
    if edit.trained_steps is not None:
        record["trained_steps"] = str(edit.trained_steps)
    save_file({key: value.float().cpu().contiguous() for key, value in edit.tensors.items()}, path, record)
    return name


def load_edits(path: str, train_steps: int) -> list[Edit]:
    """The edits of a file; published delta blocks don't say how many steps they were trained with.

    Raises CheckpointError for other files.
    """
    state, metadata = read(path)
    name = Path(path).name
    own = metadata.get("kind") == KIND
    known: dict[str, Any] = {"name": Path(path).stem}
    if own:
        known = {key: metadata.get(key, "") for key in ("name", "model", "fingerprint")}
    if own and metadata.get("form") == DIRECTION:
        if "delta_h" not in state or state["delta_h"].ndim != 4:
            raise CheckpointError(f"{name} says it is a direction, but delta_h [n C h w] is missing")
        return [direction_edit(state["delta_h"].float(), **known)]
    steps = int(metadata.get("trained_steps", train_steps)) if own else train_steps
    with torch.inference_mode(False):
        blocks = read_blocks(state, name)
    return [network_edit(block, trained_steps=steps or None, **known) for block in blocks]
