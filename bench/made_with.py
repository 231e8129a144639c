"""What a figure or a picture was made with: the hashes of the files behind it.

JSON results hold them as `made_with`; for pictures they stand in `made_with.json` of the same folder.
`tests/bench/test_made_with.py` compares them with the files that ship.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import safe_open

from .host_server import PACK

DEMO = PACK / "models" / "demo"
JUDGE = PACK / "bench" / "judge" / "judge.safetensors"
UNET, DIFFAE, HSPACE, TEXT, UPSAMPLER, UNCLIP, FLOW = (
    DEMO / "models" / f"scenes_{name}.safetensors"
    for name in ("unet", "diffae", "hspace", "text", "upsampler", "unclip", "flow")
)
TRANSFORMER = DEMO / "diffusion_models" / "scenes_transformer.safetensors"
CLASSIFIER = DEMO / "classifiers" / "scenes_classifier.safetensors"
CLIP = DEMO / "encoders" / "scenes_clip.safetensors"
PRIOR = DEMO / "priors" / "scenes_prior.safetensors"
Hashes = dict[str, str]  # path in the repository -> SHA-256


def hashes(files: Iterable[Path]) -> Hashes:
    return {
        file.relative_to(PACK).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(set(files))
    }


def files_of(prompt: dict[str, Any]) -> list[Path]:
    """The pack's own model files that an API workflow names, and those that hold their weights."""
    named = {value for node in prompt.values() for value in node["inputs"].values() if isinstance(value, str)}
    found = [file for file in DEMO.rglob("*.safetensors") if file.name in named]
    return found + [holder for file in found if (holder := _holder(file))]


def _holder(file: Path) -> Path | None:
    """Whose weights a file shows in another space or with another prediction."""
    with safe_open(file, "pt") as opened:
        name = (opened.metadata() or {}).get("weights_in")
    return file.with_name(name) if name else None


def record(picture: Path, made_with: Hashes) -> None:
    """Into made_with.json beside the picture."""
    path = picture.with_name("made_with.json")
    kept: dict[str, Hashes] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    kept[picture.name] = made_with
    path.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n", "utf-8")
