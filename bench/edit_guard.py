"""`python dev.py bench edit_guard`: what Edit Guard holds of a picture, and what it leaves of the edit.

64 rendered scenes, 8 of each shape, redrawn from a noisy copy (img2img, denoise .65 of 25 steps of euler_ancestral,
cfg 3) by the shipped model that reads texts: "a yellow star" of a red one. Nothing says what the background is, so it
changes too. Outside: mean absolute change of the colours, in [0, 1], where the shape isn't, by its true mask two pixels
wider. Inside: in how many pictures the judge sees the wanted colour. The guard is given that mask, or finds its own;
the noise is the same everywhere. Writes `bench/results/edit_guard.json` and a plot; a run resumes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import matplotlib
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from training.scenes import CLASSES, Scenes, draw, render

from . import judge, made_with
from .host_server import PACK
from .pack import Pack

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

SHAPES, COLOURS = CLASSES["shape"], CLASSES["colour"]
RESULTS = PACK / "bench" / "results"
EACH, SEED = 8, 550_021
STEPS, DENOISE, CFG, SAMPLER = 25, 0.65, 3.0, "euler_ancestral"
MARGIN = 2  # pixels around the shape
MADE_WITH = (made_with.TEXT, made_with.JUDGE)
SETTINGS: dict[str, dict[str, Any] | None] = {
    "unguarded": None,
    "all, mask given": {"hold": "all", "mask": True},
    "all, mask found": {"hold": "all", "mask": False},
    "all, mask found, threshold 1": {"hold": "all", "mask": False, "threshold": 1.0},
    "colours, mask given": {"hold": "colours", "mask": True},
    "colours, mask found": {"hold": "colours", "mask": False},
    "all, mask given, strength 0.5": {"hold": "all", "mask": True, "strength": 0.5},
}


def scenes_of(goal: int) -> Scenes:
    """Eight of one shape and colour, on other backgrounds than that colour and the wanted one, which is the goal's."""
    index = torch.arange(EACH)
    fixed = {"shape": index * 0 + goal, "colour": index * 0 + (goal + 1) % 8, "background": (goal + 2 + index % 6) % 8}
    return render(draw(EACH, torch.Generator().manual_seed(SEED + goal), **fixed))


def free_of(scenes: Scenes) -> Tensor:
    """[B H W]: the shape and its margin."""
    return max_pool2d((scenes.mask > 0).float(), 2 * MARGIN + 1, stride=1, padding=MARGIN)[:, 0]


class Bench(Pack):
    def __init__(self) -> None:
        super().__init__()
        self.model = self.node("Guidance_LoadModel", model_name="scenes_text.safetensors")[0]

    def text(self, text: str) -> Any:
        return self.node("Guidance_TextConditioning", model=self.model, text=text)[0]

    def edited(self, goal: int, scenes: Scenes, options: dict[str, Any] | None) -> Tensor:
        """Pictures [8 3 32 32] of the scenes in the goal's colour."""
        import comfy.sample

        model = self.model
        if options is not None:
            mask = free_of(scenes) if options["mask"] else None
            (model,) = self.node(
                "Guidance_EditGuard", model=model, source={"samples": scenes.image}, **{**options, "mask": mask}
            )
        noise = torch.randn(scenes.image.shape, generator=torch.Generator().manual_seed(SEED - 1 - goal))
        sides = self.text(f"a {COLOURS[goal]} {SHAPES[goal]}"), self.text("")
        given = {"denoise": DENOISE, "seed": 0, "disable_pbar": True}
        return comfy.sample.sample(model, noise, STEPS, CFG, SAMPLER, "normal", *sides, scenes.image.clone(), **given)


def read(images: Tensor, scenes: Sequence[Scenes]) -> dict[str, float]:
    """Of the pictures [64 3 32 32] of all goals."""
    sources, masks = (torch.cat(parts) for parts in zip(*((s.image, free_of(s)) for s in scenes), strict=True))
    labels = torch.cat([s.attributes.labels() for s in scenes])
    outside = 1 - masks[:, None]
    apart = (images.clamp(-1, 1) - sources).abs().mean(1, keepdim=True) / 2
    said = judge.classify(images)
    found = {
        "outside": (apart * outside).sum() / outside.sum(),
        "background": (said["background"] == labels[:, 2]).float().mean(),
        "inside": (said["colour"] == labels[:, 0]).float().mean(),  # the goals' colours have their shapes' numbers
        "shape": (said["shape"] == labels[:, 0]).float().mean(),
    }
    return {name: round(value.item(), 4) for name, value in found.items()}


def compared(cells: dict[str, dict[str, float]]) -> None:
    """What is left of the change outside, and of the edit inside, against the unguarded one."""
    plain = cells["unguarded"]
    for cell in cells.values():
        cell["outside_left"] = round(cell["outside"] / plain["outside"], 4)
        cell["inside_kept"] = round(cell["inside"] / plain["inside"], 4)


def plot(cells: dict[str, dict[str, float]]) -> None:
    figure, axis = pyplot.subplots(figsize=(7, 4.6))
    for name, cell in cells.items():
        axis.plot(cell["outside_left"], cell["inside_kept"], "o", label=name)
    axis.axvline(0.25, color="grey", linestyle=":")
    axis.axhline(0.8, color="grey", linestyle=":")
    axis.set_xlabel("change of the colours outside, 1: unguarded (left is better)")
    axis.set_ylabel("edit inside, 1: unguarded (judge)")
    axis.set_ylim(0.7, 1.1)
    axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(RESULTS / "edit_guard.png", dpi=90)
    pyplot.close(figure)


def main() -> None:
    torch.set_num_threads(1)
    path, made = RESULTS / "edit_guard.json", made_with.hashes(MADE_WITH)
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    if found.get("made_with") != made:
        found = {"made_with": made, "n": EACH * len(SHAPES), "settings": {}}
    scenes = [scenes_of(goal) for goal in range(len(SHAPES))]
    with torch.inference_mode():
        bench = Bench()
        for name, options in SETTINGS.items():
            if name in found["settings"]:
                continue
            images = [bench.edited(goal, source, options) for goal, source in enumerate(scenes)]
            found["settings"][name] = read(torch.cat(images), scenes)
            compared(found["settings"])
            path.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
            print(name, found["settings"][name], file=sys.stderr, flush=True)
    plot(found["settings"])
    made_with.record(RESULTS / "edit_guard.png", made)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
