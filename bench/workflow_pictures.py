"""`python dev.py bench workflow_pictures NAME...`: runs api/NAME.json; keeps pictures/NAME.jpg and what made it."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from . import made_with
from .host_server import PACK, running

FOLDER = PACK / "workflows"


def give_pictures(prompt: dict[str, Any], folder: Path) -> None:
    """Those of this folder that Load Image asks for."""
    folder.mkdir(parents=True, exist_ok=True)
    for node in prompt.values():
        if node["class_type"] == "LoadImage" and (FOLDER / node["inputs"]["image"]).exists():
            shutil.copy(FOLDER / node["inputs"]["image"], folder)


def main() -> None:
    with running(Path(os.environ["COMFYUI_PATH"])) as host:
        for name in sys.argv[1:]:
            prompt = json.loads((FOLDER / "api" / f"{name}.json").read_text("utf-8"))
            give_pictures(prompt, host.base / "input")
            outputs = host.run(prompt)
            saving = [key for key, node in prompt.items() if node["class_type"] == "SaveImage"]
            (file,) = [file for key in saving for file in host.images(outputs[key])]
            picture = FOLDER / "pictures" / f"{name}.jpg"
            Image.open(io.BytesIO(file)).convert("RGB").save(picture, quality=92)
            made_with.record(picture, made_with.hashes(made_with.files_of(prompt)))
            print(f"workflows/pictures/{name}.jpg")


if __name__ == "__main__":
    main()
