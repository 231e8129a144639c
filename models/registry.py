"""Every family of checkpoints that the pack reads, from specific to general."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import adm, ddpm
from .architecture import Architecture, Checkpoint, parse
from .state_dict import CheckpointError, read

ARCHITECTURES: tuple[Architecture[Any], ...] = (adm.CLASSIFIER, adm.UNET, ddpm.DDPM_UNET)
DEMO = Path(__file__).parent / "demo"  # the pack's own small weights


def load_checkpoint(path: str | Path, kind: str) -> Checkpoint:
    """Reads a file and checks it; `kind` is "model" or "classifier"; the other one raises CheckpointError too."""
    path = Path(path)
    state, metadata = read(path)
    checkpoint = parse(path.name, state, metadata, ARCHITECTURES)
    found = checkpoint.architecture
    if found.kind != kind:
        raise CheckpointError(f"{path.name} is {found.title}, a {found.kind}; a {kind} is needed here")
    return checkpoint
