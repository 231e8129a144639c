"""Convert Guidance File, and `python dev.py convert FILE [OUT]`: PyTorch files that ask for code -> safetensors.

PyTorch's files whose pickles ask for code become safetensors; none of it runs. Lightning's checkpoints name classes of
their own beside the weights, which weights-only loading refuses. Here only tensors, containers, numbers and texts are
read; whatever else a file names is neither imported nor called.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from .pickled import Stored
from .saving import new_file
from .state_dict import PICKLE, ZIP, CheckpointError, averaged_weights, beginning, check_growth, pytorch_file, unwrapped

BESIDE = ("conds_mean", "conds_std", "x_T")  # of a diffusion autoencoder, where they stand outside the state dict


@dataclass(frozen=True)
class Kept:
    """The tensors of a file that are worth keeping, and what is said of the rest."""

    tensors: dict[str, Tensor]
    left_out: list[str]


def read_untrusted(path: Path) -> Kept:
    """The weights of a PyTorch file, whatever its pickle asks for. Raises CheckpointError."""
    head = beginning(path)
    if head[8:9] == b"{":
        raise CheckpointError(f"{path.name} is a safetensors file already; there is nothing to convert")
    if head[:4] != ZIP and head[:1] != PICKLE:
        raise CheckpointError(f"{path.name} is no PyTorch file (it begins with {head[:8]!r}); download it again")
    with pytorch_file(path) as source:
        stored, left_out = chosen(source.content(), path.name)
        check_growth(sum(part.nbytes for part in stored.values()), path)
        return Kept(source.tensors(stored), left_out)


def chosen(content: Any, name: str) -> tuple[dict[str, Stored], list[str]]:
    """The state dict inside what a file held, averaged weights before others, and names of what is left out."""
    state = unwrapped(content)
    if type(state) is not dict:
        raise CheckpointError(f"{name} holds no weights by name")
    around = content if content is not state else {}
    found = {key: value for key, value in state.items() if type(key) is str and isinstance(value, Stored)}
    if not found:
        keys = ", ".join(ascii(key)[:60] for key in list(state)[:5])
        raise CheckpointError(f"{name} holds no weights by name" + (f"; its keys are {keys}" if keys else ""))
    kept = averaged_weights(found)
    left_out = ["model. (ema_model. is the average)"] * (len(kept) < len(found))
    for key in BESIDE:
        if key not in kept and isinstance(around.get(key), Stored):
            kept[key] = around[key]
    left_out += [str(key) for key in around if unwrapped(around[key]) is not state and key not in kept]
    others = len(state) - len(found)
    left_out += [f"{others} entries that are no tensors"] * bool(others)
    return kept, left_out


def convert(source: Path, target: Path) -> str:
    """Writes the weights of `source` to `target` and says what they are. Raises CheckpointError; overwrites nothing."""
    if os.path.lexists(target):
        raise CheckpointError(f"{target} exists already and is not overwritten; name another file or move it away")
    kept = read_untrusted(source)
    new_file(kept.tensors, [target], {"format": "pt", "converted_from": ascii(source.name)[1:-1]})
    return _report(kept, target)


def _report(kept: Kept, target: Path) -> str:
    """Names out of the file are printed in plain ASCII: a terminal obeys control characters."""
    numbers = sum(tensor.numel() for tensor in kept.tensors.values())
    lines = [f"{target}: {len(kept.tensors)} tensors, {numbers:,} numbers"]
    parts: dict[str, int] = {}
    for key in kept.tensors:
        part = key.split(".")[0]
        parts[part] = parts.get(part, 0) + 1
    lines.append("kept: " + ", ".join(f"{ascii(part)[1:-1][:60]} ({count})" for part, count in parts.items()))
    if kept.left_out:
        lines.append("left out: " + ", ".join(ascii(name)[1:-1][:60] for name in kept.left_out))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python dev.py convert", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("file", type=Path, help="a PyTorch file: .ckpt, .pt, .pth")
    parser.add_argument("out", type=Path, nargs="?", help="default: FILE with .safetensors at the end")
    given = parser.parse_args(arguments)
    try:
        print(convert(given.file, given.out or given.file.with_suffix(".safetensors")))  # noqa: T201
    except ValueError as error:
        sys.exit(f"convert: {error}")


if __name__ == "__main__":
    main()
