"""The pack's model folders: the user's own under ComfyUI/models, the shipped small ones beside them."""

from __future__ import annotations

from pathlib import Path

import folder_paths

SHIPPED = Path(__file__).resolve().parents[2] / "models" / "demo"
KINDS = ("models", "classifiers", "encoders", "directions")


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
