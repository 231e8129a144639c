"""`python dev.py bench edit_guard`: what Edit Guard holds of a picture, and what it leaves of the edit.

64 rendered scenes, redrawn from a noisy copy (img2img, denoise .65 of 25 steps of euler_ancestral, cfg 3) by the
shipped U-Net with another class: a colour, or a texture, of the same shape. Nothing says what the background is, so it
changes too. Outside: mean absolute change of the colours, in [0, 1], where the shape isn't, by its true mask two pixels
wider. Inside: in how many pictures the judge sees the wanted class. The guard is given that mask, or finds its own; the
noise is the same everywhere. Writes `bench/results/edit_guard.json` and a plot; a run resumes.
"""

from __future__ import annotations

import json
import sys
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

RESULTS = PACK / "bench" / "results"
COUNT, SEED = 64, 550_021
STEPS, DENOISE, CFG, SAMPLER = 25, 0.65, 3.0, "euler_ancestral"
EDITS = ("colour", "texture")
MARGIN = 2  # pixels around the shape
MADE_WITH = (made_with.UNET, made_with.JUDGE)
SETTINGS: dict[str, dict[str, Any] | None] = {
    "unguarded": None,
    "all, mask given": {"hold": "all", "mask": True},
    "all, mask found": {"hold": "all", "mask": False},
    "colours, mask given": {"hold": "colours", "mask": True},
    "colours, mask found": {"hold": "colours", "mask": False},
}


def free_of(scenes: Scenes) -> Tensor:
    """[B H W]: the shape and its margin."""
    return max_pool2d((scenes.mask > 0).float(), 2 * MARGIN + 1, stride=1, padding=MARGIN)[:, 0]


def wanted(scenes: Scenes, attribute: str) -> Tensor:
    """Class indices [B]: the next one of the attribute that neither shape nor background has."""
    labels, count = scenes.attributes.labels(), len(CLASSES[attribute])
    place = list(CLASSES).index(attribute)
    found = (labels[:, place] + 1) % count
    return torch.where(found == labels[:, 2], (found + 1) % count, found) if attribute == "colour" else found


class Bench(Pack):
    def __init__(self) -> None:
        super().__init__()
        self.model = self.node("Guidance_LoadModel", model_name="scenes_unet.safetensors")[0]

    def conditioning(self, names: list[str]) -> Any:
        return self.node("Guidance_ClassConditioning", model=self.model, class_label="\n".join(names))[0]

    def edited(self, scenes: Scenes, names: list[str], options: dict[str, Any] | None) -> Tensor:
        """Pictures [B 3 32 32] of the scenes, redrawn with a class each."""
        import comfy.sample

        model = self.model
        if options is not None:
            mask = free_of(scenes) if options["mask"] else None
            (model,) = self.node(
                "Guidance_EditGuard", model=model, source={"samples": scenes.image}, **{**options, "mask": mask}
            )
        noise = torch.randn(scenes.image.shape, generator=torch.Generator().manual_seed(SEED + 1))
        sides = self.conditioning(names), self.conditioning([""])
        given = {"denoise": DENOISE, "seed": 0, "disable_pbar": True}
        return comfy.sample.sample(model, noise, STEPS, CFG, SAMPLER, "normal", *sides, scenes.image.clone(), **given)


def read(images: Tensor, scenes: Scenes, attribute: str, classes: Tensor) -> dict[str, float]:
    outside = 1 - free_of(scenes)[:, None]
    apart = (images.clamp(-1, 1) - scenes.image).abs().mean(1, keepdim=True) / 2
    said = judge.classify(images)
    found = {
        "outside": (apart * outside).sum() / outside.sum(),
        "background": (said["background"] == scenes.attributes.background).float().mean(),
        "inside": (said[attribute] == classes).float().mean(),
        "shape": (said["shape"] == scenes.attributes.shape).float().mean(),
    }
    return {name: round(value.item(), 4) for name, value in found.items()}


def compared(cells: dict[str, dict[str, float]]) -> None:
    """What is left of the change outside, and of the edit inside, against the unguarded one."""
    plain = cells.get("unguarded")
    for cell in cells.values() if plain else ():
        cell["outside_left"] = round(cell["outside"] / plain["outside"], 4)
        cell["inside_kept"] = round(cell["inside"] / plain["inside"], 4)


def plot(found: dict[str, Any]) -> None:
    figure, axis = pyplot.subplots(figsize=(7.5, 5))
    for attribute, marker in zip(EDITS, ("o", "s"), strict=True):
        for place, (name, cell) in enumerate(found["edits"][attribute].items()):
            label = name if attribute == EDITS[0] else None
            axis.plot(cell["outside_left"], cell["inside_kept"], marker, color=f"C{place}", label=label)
    axis.axvline(0.25, color="grey", linestyle=":")
    axis.axhline(0.8, color="grey", linestyle=":")
    axis.set_xlabel("change of the colours outside, 1: unguarded (left is better)")
    axis.set_ylabel("edit inside, 1: unguarded (judge)")
    axis.set_title("circles: another colour; squares: another texture")
    axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(RESULTS / "edit_guard.png", dpi=90)
    pyplot.close(figure)


def main() -> None:
    torch.set_num_threads(1)
    path, made = RESULTS / "edit_guard.json", made_with.hashes(MADE_WITH)
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    if found.get("made_with") != made:
        found = {"made_with": made, "edits": {attribute: {} for attribute in EDITS}}
    scenes = render(draw(COUNT, torch.Generator().manual_seed(SEED)))
    with torch.inference_mode():
        bench = Bench()
        for attribute in EDITS:
            classes, cells = wanted(scenes, attribute), found["edits"][attribute]
            names = [CLASSES[attribute][index] for index in classes.tolist()]
            for name, options in SETTINGS.items():
                if name not in cells:
                    cells[name] = read(bench.edited(scenes, names, options), scenes, attribute, classes)
                    compared(cells)
                    path.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
                    print(attribute, name, cells[name], file=sys.stderr, flush=True)
    plot(found)
    made_with.record(RESULTS / "edit_guard.png", made)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
