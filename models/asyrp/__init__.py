"""The delta blocks of kwonminki/Asyrp_official, and those that the pack trains."""

from __future__ import annotations

import re

import torch

from ..memory import check_memory
from ..state_dict import CheckpointError, StateDict
from .network import DeltaBlock, DeltaConfig, NormFirstDeltaBlock, delta_block

# an attribute's number and "layer_0." may stand before the block's own keys
OWN = "conv1|temb_proj|norm2|conv2|in_layers|emb_layers|out_layers"
KEY = re.compile(rf"^(?:(\d{{1,6}})\.)?(?:module\.)?(?:layer_(\d{{1,6}})\.)?((?:{OWN})\..+)$")


def holds_block(state: StateDict) -> bool:
    """Whether a file has the two parts that every delta block has."""
    own = {found.group(3) for found in map(KEY.match, state) if found}
    return {"conv1.weight", "temb_proj.weight"} <= own or {"in_layers.2.weight", "emb_layers.1.weight"} <= own


def read_blocks(state: StateDict, name: str) -> list[DeltaBlock | NormFirstDeltaBlock]:
    """Every delta block of a file, in the order of its attributes. Raises CheckpointError where there is none."""
    parts: dict[tuple[int, int], dict[str, torch.Tensor]] = {}
    for key, value in state.items():
        found = KEY.match(key)
        if found:
            attribute, layer, own = found.groups()
            if not value.is_floating_point():
                raise CheckpointError(f"{name} has {key} as {value.dtype} where floating-point numbers are needed")
            parts.setdefault((int(attribute or 0), int(layer or 0)), {})[own] = value.float()
    if not parts:
        raise CheckpointError(
            f"{name} holds no delta block of Asyrp (its first keys are {', '.join(sorted(state)[:3])}); use a file of "
            "its checkpoint folder, or one of Save HSpace Direction"
        )
    return [_block(parts[place], name) for place in sorted(parts)]


def _block(state: dict[str, torch.Tensor], name: str) -> DeltaBlock | NormFirstDeltaBlock:
    norm_first = "in_layers.2.weight" in state
    first = "in_layers.2.weight" if norm_first else "conv1.weight"
    second = "emb_layers.1.weight" if norm_first else "temb_proj.weight"
    if first not in state or second not in state:
        raise CheckpointError(f"{name} holds a part of a delta block only; {first} or {second} is missing")
    try:
        with torch.device("meta"):  # what it claims to be has no numbers until its shapes are known to be right
            block = delta_block(DeltaConfig(state[first].shape[0], state[second].shape[1], norm_first))
        wrong = [key for key, value in block.state_dict().items() if key in state and state[key].shape != value.shape]
        if wrong:
            raise ValueError(f"{wrong[0]} has the shape {list(state[wrong[0]].shape)}")
        block.to_empty(device="cpu").load_state_dict(state, strict=True)
    except (RuntimeError, LookupError, ValueError, ArithmeticError) as error:
        check_memory(error)
        odd = isinstance(error, LookupError | ArithmeticError)
        fault = "the shapes of its weights are odd" if odd else str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{name} holds a delta block of another form: {fault}") from error
    return block
