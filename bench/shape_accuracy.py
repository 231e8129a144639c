"""`python dev.py bench shape_accuracy`: how often the judge sees the wanted shape, through the host's HTTP API.

Class-conditional with stock KSampler (ddim) at several CFG scales, and unconditional predictions with the classifier at
several guidance scales (ddim with eta 1); 256 pictures a setting, 50 steps, the same noise for every setting. Writes
`bench/results/shape_accuracy.json`, a plot, and a sheet of seeds 0 to 15 at CFG 3, each run alone.
What was measured before under the same conditions is kept: a run resumes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import matplotlib
import torch
from PIL import Image
from torch import Tensor

from training.scenes import SHAPES

from . import judge, made_with
from .demo import to_tensor
from .host_server import PACK, Host, running

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

RESULTS = PACK / "bench" / "results"
CFG_SCALES = (1.0, 3.0)
CLASSIFIER_SCALES = (8.0, 16.0, 32.0)
ETA = 1.0  # of the classifier's runs: fresh noise at each step, as the workflow classifier_guidance has it
BATCH = 64
Prompt = dict[str, dict[str, Any]]


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def base(batch: int) -> Prompt:
    """Model, latent and the way from samples to files; `sample` is still missing."""
    return {
        "model": node(
            "Guidance_LoadModel",
            model_name="scenes_unet.safetensors",
            clip_denoised=True,
            schedule="auto",
            heads="auto",
        ),
        "latent": node("Guidance_EmptyPixelLatent", width=32, height=32, batch_size=batch),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["model", 1]),
        "save": node("PreviewImage", images=["decode", 0]),
    }


def labels(batch: int) -> str:
    return "\n".join(list(SHAPES) * (batch // len(SHAPES)))


def with_cfg(scale: float, seed: int, steps: int, batch: int) -> Prompt:
    """The stock sampler on the class-conditional model."""
    return {
        **base(batch),
        "yes": node("Guidance_ClassConditioning", model=["model", 0], class_label=labels(batch)),
        "no": node("Guidance_ClassConditioning", model=["model", 0], class_label=""),
        "sample": node(
            "KSampler",
            model=["model", 0],
            positive=["yes", 0],
            negative=["no", 0],
            latent_image=["latent", 0],
            seed=seed,
            steps=steps,
            cfg=scale,
            sampler_name="ddim",
            scheduler="normal",
            denoise=1.0,
        ),
    }


def with_classifier(scale: float, seed: int, steps: int, batch: int) -> Prompt:
    """Unconditional predictions and the classifier's gradient."""
    return {
        **base(batch),
        "classifier": node("Guidance_LoadClassifier", classifier_name="scenes_classifier.safetensors"),
        "sample": node(
            "Guidance_ClassifierGuidedSampler",
            model=["model", 0],
            classifier=["classifier", 0],
            class_label=labels(batch),
            latent_image=["latent", 0],
            seed=seed,
            steps=steps,
            algorithm="ddim",
            guidance_scale=scale,
            denoise=1.0,
            eta=ETA,
            respacing="",
        ),
    }


def pictures(host: Host, prompt: Any, scale: float, count: int, steps: int) -> Tensor:
    """[count 3 32 32], in batches whose seed is the number of their first picture."""
    files: list[bytes] = []
    for seed in range(0, count, BATCH):
        files += host.images(host.run(prompt(scale, seed, steps, min(BATCH, count)), timeout=1800)["save"])
    return to_tensor(files)


def clean_shapes(host: Host, steps: int) -> Tensor:
    """Seeds 0 to 15, two a shape, CFG 3, nothing picked."""
    files: list[bytes] = []
    for seed in range(2 * len(SHAPES)):
        prompt = with_cfg(3.0, seed, steps, 1)
        prompt["yes"]["inputs"]["class_label"] = list(SHAPES)[seed % len(SHAPES)]
        files += host.images(host.run(prompt)["save"])
    return to_tensor(files)


def right(images: Tensor) -> float:
    """Share of pictures in which the judge sees the wanted shape."""
    wanted = torch.arange(len(images)) % len(SHAPES)
    return round((judge.classify(images)["shape"] == wanted).float().mean().item(), 4)


def sheet(images: Tensor, columns: int = 8, scale: int = 4, gap: int = 4) -> Image.Image:
    """Pictures in rows, enlarged without smoothing."""
    tiles = ((images + 1) * 127.5).round().byte().movedim(1, -1)
    tiles = tiles.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    side = tiles.shape[1] + gap
    rows = -(-len(tiles) // columns)
    canvas = Image.new("RGB", (columns * side + gap, rows * side + gap), "white")
    for index, tile in enumerate(tiles):
        canvas.paste(Image.fromarray(tile.numpy()), (gap + index % columns * side, gap + index // columns * side))
    return canvas


def plot(result: dict[str, Any], path: Path) -> None:
    figure, (left, middle) = pyplot.subplots(1, 2, figsize=(9, 3.4), sharey=True)
    for axis, key, title in (
        (left, "cfg", "class-conditional, CFG scale"),
        (middle, "classifier", "unconditional + classifier scale"),
    ):
        scales = list(result[key])
        axis.plot(range(len(scales)), list(result[key].values()), marker="o")
        axis.set_xticks(range(len(scales)), scales)
        axis.set_xlabel(title)
        axis.axhline(1 / len(SHAPES), color="grey", linestyle=":", label="chance")
        axis.set_ylim(0, 1.02)
        axis.grid(alpha=0.3)
    left.set_ylabel("right shape, by the judge")
    left.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def started(path: Path, conditions: dict[str, Any]) -> dict[str, Any]:
    """What an earlier run measured under the same conditions, or nothing yet."""
    if path.exists():
        earlier = json.loads(path.read_text("utf-8"))
        if all(earlier.get(key) == value for key, value in conditions.items()):
            return earlier
    return {**conditions, "cfg": {}, "classifier": {}}


def main() -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench shape_accuracy")
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--classifier-steps", type=int, default=50)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    path, seeds = given.out / "shape_accuracy.json", given.out / "shapes_cfg3_seeds0-15.png"
    conditions = {
        "n": given.count,
        "steps": {"cfg": given.steps, "classifier": given.classifier_steps},
        "eta": {"cfg": 0.0, "classifier": ETA},
        "made_with": made_with.hashes((made_with.UNET, made_with.CLASSIFIER, made_with.JUDGE)),
    }
    result = started(path, conditions)
    flags = [] if torch.cuda.is_available() else ["--cpu", "--force-channels-last"]
    with running(Path(os.environ["COMFYUI_PATH"]), flags=flags) as host:
        for key, prompt, scales in (("cfg", with_cfg, CFG_SCALES), ("classifier", with_classifier, CLASSIFIER_SCALES)):
            for scale in (f"{scale:g}" for scale in scales):
                if scale not in result[key]:
                    images = pictures(host, prompt, float(scale), given.count, conditions["steps"][key])
                    result[key][scale] = right(images)
                    path.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
                print(f"[bench] {key} {scale}: {result[key][scale]}", file=sys.stderr, flush=True)
            if "clean_shapes" not in result:
                clean = clean_shapes(host, given.steps)
                sheet(clean).save(seeds)
                made_with.record(seeds, conditions["made_with"])
                result["clean_shapes"] = {"wanted": list(SHAPES) * 2, "right_by_judge": right(clean)}
    plot(result, path.with_suffix(".png"))
    made_with.record(path.with_suffix(".png"), conditions["made_with"])
    path.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
