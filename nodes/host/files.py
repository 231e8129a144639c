"""The pack's model folders, the user's own and the shipped small ones beside them, and directions as files."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Any

import folder_paths
import torch
from torch import Tensor

from ...guidance.directions import Linear
from ...models.asyrp import read_blocks
from ...models.diffae import STATISTICS
from ...models.diffae.attributes import CELEBA
from ...models.messages import plain
from ...models.registry import HOMES, HSPACE, SEMANTIC, check_file, check_use_as, uses_of_file
from ...models.saving import new_file
from ...models.state_dict import CheckpointError, ForeignError, StateDict, read, statistics
from .hspace.edit import DIRECTION, Edit, direction_edit, network_edit
from .semantic.direction import Direction

SHIPPED = Path(__file__).resolve().parents[2] / "models" / "demo"
STRENGTH, STEPS, BLOCKS = 1e6, 1000, 4095  # the most that a saved direction may say of itself
TRANSFORMERS = "diffusion_models"  # the host's own folder, in whose list the pack's small transformer stands, too
LONGEST = 200  # bytes of a name that a user chooses
KINDS = ("models", "classifiers", "encoders", "matchers", "scorers", "priors", "directions")
MORE = {"priors": {".th"}}  # how names of a kind's files end besides: Karlo's statistics
SAFETENSORS = (".safetensors", ".sft")
PATIENCE = 2.0  # seconds that a list takes to look into new files


def register_folders() -> None:
    """Makes `guidance_models` and its sisters known to the host; folders a user configured stay first."""
    for kind in KINDS:
        name = f"guidance_{kind}"
        own = Path(folder_paths.models_dir) / name
        with suppress(OSError):  # models on a disk that can't be written
            own.mkdir(parents=True, exist_ok=True)
            (own / f"put_{name}_here").touch()
        folder_paths.add_model_folder_path(name, str(own))
        folder_paths.add_model_folder_path(name, str(SHIPPED / kind))
        paths, _ = folder_paths.folder_names_and_paths[name]
        folder_paths.folder_names_and_paths[name] = (
            paths,
            folder_paths.supported_pt_extensions | MORE.get(kind, set()),
        )
    folder_paths.add_model_folder_path(TRANSFORMERS, str(SHIPPED / TRANSFORMERS))


def choices(kind: str, use: str) -> list[str]:
    """File names for the list of a loader of such a use (of HOMES).

    Pickles are all listed, and what there was no time to look into: it is looked into the next time.
    """
    folder, end = f"guidance_{kind}", monotonic() + PATIENCE
    names = folder_paths.get_filename_list(folder)
    return [name for name in names if monotonic() > end or _may_be(use, folder, name)]


def _may_be(use: str, folder: str, name: str) -> bool:
    path = folder_paths.get_full_path(folder, name)
    if path is None:
        return False
    stat = Path(path).stat()
    return not name.lower().endswith(SAFETENSORS) or use in _uses(folder, path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=10_000)
def _uses(folder: str, path: str, changed: int, size: int) -> frozenset[str]:
    """What a safetensors file can be used as, from its header; everything where that can't be known.

    A file that no list of its folder will have is named in the log.
    """
    try:
        found = uses_of_file(path)
    except ForeignError as error:
        logging.warning("Diffusion Guidance: %s. It is in models/%s, and not listed.", error, folder)
        return frozenset()
    except CheckpointError:  # chosen, it says why
        return frozenset(HOMES)
    for use, title in found.items():
        home, loader = HOMES[use]
        if home != folder:
            text = "Diffusion Guidance: %s in models/%s is %s, which belongs into models/%s, for %s."
            logging.warning(text, plain(Path(path).name), folder, title, home, loader)
    return frozenset(found or HOMES)


def pickles() -> list[str]:
    """PyTorch's files in all folders of the pack, as guidance_models/NAME."""
    folders = [f"guidance_{kind}" for kind in KINDS]
    found = [f"{folder}/{name}" for folder in folders for name in folder_paths.get_filename_list(folder)]
    return [name for name in found if not name.lower().endswith(SAFETENSORS)]


def locate_pickle(name: str) -> str:
    """Full path of one of `pickles`. Raises ValueError for what is none."""
    if name not in pickles():
        raise ValueError(f"there is no file {name!r}; put it into ComfyUI/models/guidance_models and reload the page")
    folder, _, inside = name.partition("/")
    return locate(folder.removeprefix("guidance_"), inside)


def usable(kind: str, name: str | None, use: str) -> bool | str:
    """For a loader's `validate_inputs`: True, or what is wrong with its file, before anything runs.

    `name` is None where it comes from another node.
    """
    if name is None:
        return True
    try:
        path = locate(kind, name)
        stat = Path(path).stat()
        return _fault(path, stat.st_mtime_ns, stat.st_size, use) or True
    except (ValueError, OSError) as error:
        return plain(str(error))


@lru_cache(maxsize=1000)
def _fault(path: str, changed: int, size: int, use: str) -> str:
    """What is wrong with a file, as far as names and shapes tell it; empty if nothing."""
    try:
        check_file(path, use)
    except CheckpointError as error:
        return str(error)
    return ""


def locate(kind: str, name: str) -> str:
    """Full path of a listed file. Raises ValueError if it is gone."""
    path = folder_paths.get_full_path(f"guidance_{kind}", name) if isinstance(name, str) else None
    if path is None:
        raise ValueError(f"there is no file {name!r}; put it into ComfyUI/models/guidance_{kind} and reload the page")
    return path


def save(kind: str, prefix: str, tensors: Mapping[str, Tensor], record: dict[str, str]) -> str:
    """Writes a new file into the first folder of a kind; its name as loaders list it. Nothing is overwritten.

    Raises ValueError for names that lead out of the folder or can't be those of a file.
    """
    root = folder_paths.get_folder_paths(f"guidance_{kind}")[0]
    check_prefix(kind, prefix)
    try:
        Path(root).mkdir(parents=True, exist_ok=True)
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, root)
    except OSError as error:
        raise ValueError(f"the folder guidance_{kind} can't be written: {error.strerror}") from error
    except Exception as error:  # the host raises nothing narrower
        raise ValueError(f"{prefix!r} leads out of the folder guidance_{kind}; choose a name within it") from error
    paths = (Path(folder) / f"{name}_{number:05}_.safetensors" for number in count(counter))
    whole = {key: value.float() for key, value in tensors.items()}
    return str(Path(subfolder) / new_file(whole, paths, record).name)


def check_prefix(kind: str, prefix: str) -> None:
    """Raises ValueError for what can't be a file's name."""
    if not prefix.isprintable() or "\\" in prefix or any(map(_is_no_name, prefix.split("/"))):
        raise ValueError(
            f"{prefix!r} can't be a file's name; choose one of letters, digits and - _ . without \\, and with / behind "
            f"folders within guidance_{kind}"
        )


def _is_no_name(part: str) -> bool:
    """Of a folder or a file: dots alone, or too long for a disk with a number behind."""
    return not part.strip(". ") or len(part.encode()) > LONGEST


def save_edit(edit: Edit, prefix: str) -> str:
    """Writes an edit where Load HSpace Direction finds it; nothing is overwritten. The file's name."""
    record = {
        "kind": HSPACE,
        "form": edit.kind,
        "name": edit.name,
        "model": edit.model,
        "fingerprint": edit.fingerprint,
    }
    if edit.strength != 1:
        record["strength"] = str(edit.strength)
    if edit.block is not None:
        record["block"] = str(edit.block)
    if edit.trained_steps is not None:
        record["trained_steps"] = str(edit.trained_steps)
    return save("directions", prefix, edit.tensors, record)


def load_edits(path: str, train_steps: int) -> list[Edit]:
    """The edits of a file; published delta blocks don't say how many steps they were trained with.

    Raises CheckpointError for other files.
    """
    state, metadata = read(path)
    name = Path(path).name
    check_use_as(HSPACE, state, metadata, name)
    own = metadata.get("kind") == HSPACE
    known: dict[str, Any] = {"name": Path(path).stem}
    if own:
        known = {key: metadata.get(key, "") for key in ("name", "model", "fingerprint")}
        known["strength"] = stated(metadata, "strength", 1.0, (-STRENGTH, STRENGTH), name)
        known["block"] = int(stated(metadata, "block", 0, (0, BLOCKS), name, int)) if "block" in metadata else None
    if own and metadata.get("form") == DIRECTION:
        if "delta_h" not in state or state["delta_h"].ndim != 4:
            raise CheckpointError(f"{name} says it is a direction, but delta_h [n C h w] is missing")
        return [direction_edit(weights(state, "delta_h", name), **known)]
    if own:
        train_steps = int(stated(metadata, "trained_steps", train_steps, (0, STEPS), name, int))
    with torch.inference_mode(False):
        blocks = read_blocks(state, name)
    return [network_edit(block, trained_steps=train_steps or None, **known) for block in blocks]


def stated(
    metadata: Mapping[str, str],
    key: str,
    usual: float,
    limits: tuple[float, float],
    name: str,
    kind: type[float] = float,
) -> float:
    """A number that a file's metadata states, within limits; `kind` int: a whole one. Raises CheckpointError."""
    try:
        found = kind(metadata.get(key, usual))
    except ValueError:
        found = math.nan
    if not limits[0] <= found <= limits[1]:
        whole = "whole numbers " * (kind is int)
        raise CheckpointError(
            f"{name} says its {key} is {metadata[key]!r}; {whole}from {limits[0]:.7g} to {limits[1]:.7g} are possible"
        )
    return found


def weights(state: StateDict, key: str, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
    """Floating-point numbers of a file, of a shape where one is given, in float32. Raises CheckpointError."""
    found = state.get(key)
    if found is None or not found.is_floating_point() or not found.numel() or shape not in (None, tuple(found.shape)):
        came = "nothing" if found is None else f"{str(found.dtype).removeprefix('torch.')} {list(found.shape)}"
        needed = "" if shape is None else f" {list(shape)}"
        raise CheckpointError(f"{name} has {came} as {key}; floating-point numbers{needed} are needed")
    return found.float()


def save_direction(direction: Direction, prefix: str) -> str:
    """Writes a direction where Load Semantic Direction finds it; nothing is overwritten. The file's name."""
    tensors = {"weight": direction.line.weight, "bias": torch.tensor([direction.line.bias])}
    beside = {"mean": direction.mean, "std": direction.std}
    tensors |= {key: value for key, value in beside.items() if value is not None}
    record = {"kind": SEMANTIC, "name": direction.name, "method": direction.method}
    record |= {"fingerprint": direction.fingerprint, "owner": direction.owner}
    return save("directions", prefix, tensors, record)


def load_direction(path: str, attribute: str) -> Direction:
    """A saved direction, or one attribute of a published classifier (`attribute` of CELEBA).

    Raises CheckpointError for other files, and where the attribute is missing.
    """
    state, metadata = read(path)
    name = Path(path).name
    check_use_as(SEMANTIC, state, metadata, name)
    if metadata.get("kind") == SEMANTIC and "weight" in state:
        weight = weights(state, "weight", name).flatten()
        bias = float(weights(state, "bias", name, (1,))) if "bias" in state else 0.0
        mean, std = _statistics(state, ("mean", "std"), weight, name)
        known = {key: metadata.get(key, "") for key in ("name", "method", "fingerprint", "owner")}
        return Direction(Linear(weight, bias), mean=mean, std=std, **known)
    if "classifier.weight" not in state:
        raise CheckpointError(
            f"{name} is no direction: neither saved by Save Semantic Direction nor a published attribute classifier "
            f"(its first keys are {', '.join(sorted(state)[:3])})"
        )
    weight = weights(state, "classifier.weight", name)
    if weight.ndim != 2 or len(weight) != len(CELEBA):
        raise CheckpointError(f"{name} has classifier.weight {list(weight.shape)}; {len(CELEBA)} attributes are needed")
    if attribute not in CELEBA:
        raise CheckpointError(f"{name} has no attribute {attribute!r}; choose one of its {len(CELEBA)}")
    bias = weights(state, "classifier.bias", name, (len(CELEBA),))
    row = CELEBA.index(attribute)
    mean, std = _statistics(state, STATISTICS, weight[row], name)
    return Direction(Linear(weight[row], float(bias[row])), attribute, "published classifier", mean, std)


def _statistics(
    state: StateDict, keys: tuple[str, str], weight: Tensor, name: str
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Mean and deviation of the codes beside a direction, where the file has them. Raises CheckpointError."""
    if not weight.any():
        raise CheckpointError(f"{name} holds a direction of nothing but 0, which leads nowhere; find it anew")
    return statistics(state, keys, len(weight), name) if any(key in state for key in keys) else (None, None)
