"""The stored numbers of the papers' own code, and the rule that rebuilds their weights (`golden/README.md`)."""

import json
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

FOLDER = Path(__file__).parent / "golden"


def load(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Arguments (parsed) and tensors of one file."""
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
        arguments = {key: _parsed(value) for key, value in file.metadata().items()}
        return arguments, {key: file.get_tensor(key) for key in file.keys()}


def _parsed(value: str) -> Any:
    if value in ("True", "False"):
        return value == "True"
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def fill(network: nn.Module, salt: str) -> nn.Module:
    """The network in eval mode with every floating-point tensor rebuilt from the salt and its key."""
    state = network.state_dict()
    for key, tensor in state.items():
        if tensor.is_floating_point():
            generator = torch.Generator().manual_seed(zlib.crc32((salt + key).encode()))
            noise = torch.randn(tensor.shape, generator=generator)
            if tensor.ndim > 1:
                state[key] = noise / tensor[0].numel() ** 0.5
            elif key.endswith("running_var"):
                state[key] = 1 + 0.1 * noise.abs()
            elif key.endswith("running_mean"):
                state[key] = 0.1 * noise
            else:
                state[key] = key.endswith("weight") + 0.1 * noise
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


def draw(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def relative_error(value: Tensor, expected: Tensor) -> float:
    return ((value - expected).abs().max() / expected.abs().max()).item()
