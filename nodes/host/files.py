"""The pack's model folders, the user's own and the shipped small ones beside them, and directions as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
import torch
from safetensors.torch import save_file

from ...guidance.directions import Linear
from ...models.asyrp import read_blocks
from ...models.diffae import STATISTICS
from ...models.diffae.attributes import CELEBA
from ...models.state_dict import CheckpointError, read
from .hspace.edit import DIRECTION, Edit, direction_edit, network_edit
from .semantic.direction import Direction

SHIPPED = Path(__file__).resolve().parents[2] / "models" / "demo"
KINDS = ("models", "classifiers", "encoders", "directions")
HSPACE_KIND, SEMANTIC_KIND = "hspace_edit", "semantic_direction"  # metadata "kind" of a direction's file


def register_folders() -> None:
    """Makes `guidance_models` and its sisters known to the host; folders a user configured stay first."""
    for kind in KINDS:
        name = f"guidance_{kind}"
        folder_paths.add_model_folder_path(name, str(Path(folder_paths.models_dir) / name))
        folder_paths.add_model_folder_path(name, str(SHIPPED / kind))
        paths, _ = folder_paths.folder_names_and_paths[name]
        folder_paths.folder_names_and_paths[name] = (paths, folder_paths.supported_pt_extensions)


def choices(kind: str) -> list[str]:
    """File names for a loader's list."""
    return folder_paths.get_filename_list(f"guidance_{kind}")


def locate(kind: str, name: str) -> str:
    """Full path of a listed file. Raises ValueError if it is gone."""
    path = folder_paths.get_full_path(f"guidance_{kind}", name)
    if path is None:
        raise ValueError(f"there is no file {name!r}; put it into ComfyUI/models/guidance_{kind} and reload the page")
    return path


def next_file(kind: str, prefix: str) -> tuple[Path, str]:
    """A new file in the first folder of a kind, and its name as loaders list it; nothing is overwritten.

    Raises ValueError for names that lead out of the folder.
    """
    root = folder_paths.get_folder_paths(f"guidance_{kind}")[0]
    Path(root).mkdir(parents=True, exist_ok=True)
    try:
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, root)
    except Exception as error:  # the host raises nothing narrower
        raise ValueError(f"{prefix!r} leads out of the folder guidance_{kind}; choose a name within it") from error
    path = Path(folder) / f"{name}_{counter:05}_.safetensors"
    return path, str(Path(subfolder) / path.name)


def save_edit(edit: Edit, prefix: str) -> str:
    """Writes an edit where Load HSpace Direction finds it; nothing is overwritten. The file's name."""
    path, name = next_file("directions", prefix)
    record = {
        "kind": HSPACE_KIND,
        "form": edit.kind,
        "name": edit.name,
        "model": edit.model,
        "fingerprint": edit.fingerprint,
    }
    if edit.strength != 1:
        record["strength"] = str(edit.strength)
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
    own = metadata.get("kind") == HSPACE_KIND
    known: dict[str, Any] = {"name": Path(path).stem}
    if own:
        known = {key: metadata.get(key, "") for key in ("name", "model", "fingerprint")}
        known["strength"] = float(metadata.get("strength", 1.0))
    if own and metadata.get("form") == DIRECTION:
        if "delta_h" not in state or state["delta_h"].ndim != 4:
            raise CheckpointError(f"{name} says it is a direction, but delta_h [n C h w] is missing")
        return [direction_edit(state["delta_h"].float(), **known)]
    steps = int(metadata.get("trained_steps", train_steps)) if own else train_steps
    with torch.inference_mode(False):
        blocks = read_blocks(state, name)
    return [network_edit(block, trained_steps=steps or None, **known) for block in blocks]


def save_direction(direction: Direction, prefix: str) -> str:
    """Writes a direction where Load Semantic Direction finds it; nothing is overwritten. The file's name."""
    path, name = next_file("directions", prefix)
    tensors = {"weight": direction.line.weight, "bias": torch.tensor([direction.line.bias])}
    beside = {"mean": direction.mean, "std": direction.std}
    tensors |= {key: value for key, value in beside.items() if value is not None}
    record = {"kind": SEMANTIC_KIND, "name": direction.name, "method": direction.method}
    record |= {"fingerprint": direction.fingerprint, "owner": direction.owner}
    save_file({key: value.float().cpu().contiguous() for key, value in tensors.items()}, path, record)
    return name


def load_direction(path: str, attribute: str) -> Direction:
    """A saved direction, or one attribute of a published classifier (`attribute` of CELEBA).

    Raises CheckpointError for other files, and where the attribute is missing.
    """
    state, metadata = read(path)
    name = Path(path).name
    if metadata.get("kind") == SEMANTIC_KIND and "weight" in state:
        line = Linear(state["weight"].flatten(), float(state["bias"].flatten()[0]) if "bias" in state else 0.0)
        known = {key: metadata.get(key, "") for key in ("name", "method", "fingerprint", "owner")}
        return Direction(line, mean=state.get("mean"), std=state.get("std"), **known)
    if "classifier.weight" not in state:
        raise CheckpointError(
            f"{name} is no direction: neither saved by Save Semantic Direction nor a published attribute classifier "
            f"(its first keys are {', '.join(sorted(state)[:3])})"
        )
    weight, bias = state["classifier.weight"].float(), state["classifier.bias"].float()
    if attribute not in CELEBA or len(weight) != len(CELEBA):
        raise CheckpointError(
            f"{name} has {len(weight)} attributes; choose one of them in attribute (now {attribute!r})"
        )
    row = CELEBA.index(attribute)
    mean, std = (None if state.get(key) is None else state[key].float().flatten() for key in STATISTICS)
    return Direction(Linear(weight[row], float(bias[row])), attribute, "published classifier", mean, std)
