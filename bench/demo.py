"""The demo: the shipped workflow on 64 pictures through the host's HTTP API, judged; JSON on the last line.

64 pictures, 8 of each shape, seed 0, 25 DDIM steps with fresh noise, unconditional predictions: once without, once with
the classifier. Pictures land in `output/demo`.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from training.scenes import SHAPES

from . import judge, made_with
from .host_server import PACK, Host, running

WORKFLOW = PACK / "workflows" / "api" / "classifier_guidance.json"
PICTURES = 64
UNGUIDED, GUIDED = "4", "5"  # the samplers of the workflow
UNGUIDED_FILES, GUIDED_FILES = "unguided", "guided"  # added: every picture as a file


def say(text: str) -> None:
    print(f"[demo] {text}", file=sys.stderr, flush=True)


def prompt() -> dict[str, Any]:
    """The shipped workflow, for 64 pictures, with every picture saved."""
    workflow = copy.deepcopy(json.loads(WORKFLOW.read_text("utf-8")))
    labels = "\n".join(list(SHAPES) * (PICTURES // len(SHAPES)))
    workflow["8"]["inputs"]["labels"] = "\n" * PICTURES + labels
    workflow["3"]["inputs"]["batch_size"] = PICTURES
    for sampler in (UNGUIDED, GUIDED):
        workflow[sampler]["inputs"] |= {"class_label": labels, "seed": 0}
    for name, decoded in ((UNGUIDED_FILES, "6"), (GUIDED_FILES, "7")):
        workflow[name] = {"class_type": "SaveImage", "inputs": {"images": [decoded, 0], "filename_prefix": name}}
    return workflow


def to_tensor(files: list[bytes]) -> Tensor:
    """PNG files of one size -> [B 3 H W] in [-1, 1]."""
    arrays = [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]
    return torch.from_numpy(np.stack(arrays)).movedim(-1, 1).float() / 127.5 - 1


def shape_accuracy(files: list[bytes]) -> float:
    said = judge.classify(to_tensor(files))["shape"]
    wanted = torch.arange(len(files)) % len(SHAPES)
    return round((said == wanted).float().mean().item(), 4)


def save(files: list[bytes], folder: Path, name: str) -> None:
    for index, file in enumerate(files):
        (folder / f"{name}_{index:02d}.png").write_bytes(file)


def demonstrate(host: Host, folder: Path) -> dict[str, Any]:
    started = time.monotonic()
    outputs = host.run(prompt())
    seconds = time.monotonic() - started
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (sheet,) = host.images(outputs["9"])
    (folder / "sheet.png").write_bytes(sheet)
    unguided, guided = host.images(outputs[UNGUIDED_FILES]), host.images(outputs[GUIDED_FILES])
    save(unguided, folder, "unguided")
    save(guided, folder, "guided")
    return result(folder, seconds, unguided, guided)


def result(folder: Path, seconds: float, unguided: list[bytes], guided: list[bytes]) -> dict[str, Any]:
    """What is printed: where the pictures lie, what was wanted, by which files, and how often the judge sees it."""
    files = {"judge": made_with.JUDGE, "model": made_with.UNET, "classifier": made_with.CLASSIFIER}
    return {
        "folder": os.path.relpath(folder),
        "n": len(guided),
        "targets": list(SHAPES),
        **{f"{name}_sha256": sha for name, file in files.items() for sha in made_with.hashes([file]).values()},
        "accuracy_unguided": shape_accuracy(unguided),
        "accuracy_guided": shape_accuracy(guided),
        "seconds": round(seconds, 1),
    }


def what_to_look_at(found: dict[str, Any]) -> str:
    return (
        f"look at {found['folder']}/sheet.png: each noise twice, above without guidance, below pulled towards the "
        f"shape named over it. The judge, a network that no guide uses, sees that shape in "
        f"{found['accuracy_unguided']:.0%} of the pictures without guidance and in {found['accuracy_guided']:.0%} with "
        f"it; chance is {1 / len(SHAPES):.0%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="dev.py demo")
    parser.add_argument("--out", type=Path, default=PACK / "output" / "demo")
    folder = parser.parse_args().out
    flags = [] if torch.cuda.is_available() or torch.backends.mps.is_available() else ["--cpu"]
    say("starting ComfyUI")
    with running(Path(os.environ["COMFYUI_PATH"]), flags=flags) as host:
        say(f"sampling {PICTURES} pictures twice")
        found = demonstrate(host, folder)
    say(what_to_look_at(found))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
