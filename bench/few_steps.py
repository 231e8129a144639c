"""`python dev.py bench few_steps`: guides where a run has 4 or 8 steps and no CFG, as distilled models have.

On the shipped flow model, euler on the simple schedule, cfg 1, a label of a shape; the same noise for every setting.
Text Guide takes the predicted picture, as it does on every model of the host: which weight, window and cap move the
match of a colour, and what they cost in the shape and in KID. Text Guide with a negative weight: the share of the
colour that is not wanted. Diversity Guide on batches of 8. Judged by networks that no guide uses. Writes
`bench/results/few_steps.json` and a plot after every setting, so a run resumes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

import matplotlib
import torch
from torch import Tensor

from training.scenes import CLASSES, COLOURS, SHAPES, draw, render

from . import judge, made_with
from .cfg import REAL_SEED, kid, noise_of
from .host_server import PACK
from .pack import Pack, ksampler
from .shape_accuracy import sheet

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

RESULTS = PACK / "bench" / "results"
BATCH, GROUPS = 8, 8  # pictures of a batch, which share a label and a text; batches of a setting
REAL = 1024  # scenes that KID compares with
STEPS = (4, 8)
WHOLE = {"start_percent": 0.0, "end_percent": 1.0}
TEXT: dict[str, dict[str, Any]] = {
    **{f"weight {weight:g}": {"weight": weight, **WHOLE} for weight in (0.1, 0.2, 0.5, 1.0, 2.0)},
    **{
        f"weight 0.5, window {start:g} to {end:g}": {"weight": 0.5, "start_percent": start, "end_percent": end}
        for start, end in ((0.0, 0.5), (0.2, 0.8), (0.5, 1.0))
    },
    **{f"weight 2, cap {cap:g}": {"weight": 2.0, **WHOLE, "cap": cap} for cap in (0.1, 0.3)},
}
NEGATIVE: dict[str, dict[str, Any]] = {
    **{f"weight {weight:g}": {"weight": weight, **WHOLE} for weight in (-0.1, -0.2, -0.3, -1.0)},
    "weight -0.2, window 0.2 to 0.8": {"weight": -0.2, "start_percent": 0.2, "end_percent": 0.8},
    "weight -0.4, window 0.4 to 1": {"weight": -0.4, "start_percent": 0.4, "end_percent": 1.0},
}
DIVERSITY: dict[str, dict[str, Any]] = {
    "colours, weight 0.5": {"weight": 0.5},
    "colours, weight 0.6": {"weight": 0.6},
    "colours, weight 1": {"weight": 1.0},
    "colours, weight 0.5, whole run": {"weight": 0.5, **WHOLE},
    "encoder, weight 0.5": {"weight": 0.5, "encoder": True},
    "encoder, weight 0.5, late": {"weight": 0.5, "encoder": True, "start_percent": 0.3, "end_percent": 1.0},
}


class Bench(Pack):
    def __init__(self) -> None:
        super().__init__()
        self.model = self.node("Guidance_LoadModel", model_name="scenes_flow.safetensors")[0]
        self.encoder = self.node("Guidance_LoadEncoder", encoder_name="scenes_clip.safetensors")[0]
        self.nothing = self.conditioning("")

    def conditioning(self, label: str) -> Any:
        return self.node("Guidance_ClassConditioning", model=self.model, class_label=label)[0]

    def text(self, colour: str, cap: float = 1.0, **options: Any) -> Any:
        guide = self.node("Guidance_TextGuide", encoder=self.encoder, text=f"a {colour} shape", **options)[0]
        return self.applied(guide, cap=cap, gradient="at denoised")

    def diverse(self, encoder: bool = False, **options: Any) -> Any:
        given = {"encoder": self.encoder} if encoder else {}
        return self.applied(self.node("Guidance_DiversityGuide", **given, **options)[0])

    def applied(self, guides: Any, **options: Any) -> Any:
        return self.node("Guidance_ApplyGuides", model=self.model, guides=guides, **options)[0]

    def drawn(self, model: Callable[[int], Any], steps: int, groups: int) -> Tensor:
        """[groups * 8 3 32 32]: batch by batch, the k-th with the MODEL of k."""
        found = []
        for group in range(groups):
            label = self.conditioning(list(SHAPES)[group % len(SHAPES)])
            noise = noise_of(BATCH, 300 + group)
            found.append(ksampler(model(group), 1.0, label, self.nothing, noise, steps, "euler", "simple"))
        return torch.cat(found).clamp(-1, 1)


def unwanted(group: int) -> str:
    """The colour of a batch's text: not the same for a shape's every batch."""
    return list(COLOURS)[(group + group // len(SHAPES)) % len(COLOURS)]


def readings(images: Tensor, real: Tensor) -> dict[str, float]:
    """Shares of right shapes and of the colours of the texts, KID, and mean pairwise distances within the batches: a
    pixel's, and of the judge's features."""
    groups = len(images) // BATCH
    shapes = torch.arange(groups).remainder(len(SHAPES)).repeat_interleave(BATCH)
    colours = torch.tensor([CLASSES["colour"].index(unwanted(group)) for group in range(groups)])
    said, features = judge.classify(images), judge.load().features(images)
    found = {
        "shape": (said["shape"] == shapes).float().mean(),
        "colour": (said["colour"] == colours.repeat_interleave(BATCH)).float().mean(),
        "distance": apart(images) / images[0].numel() ** 0.5,
        "distance_judge": apart(features),
    }
    return {name: round(value.item(), 4) for name, value in found.items()} | {"kid": round(kid(features, real), 3)}


def apart(values: Tensor) -> Tensor:
    groups = values.flatten(1).unflatten(0, (-1, BATCH))
    return torch.stack([torch.pdist(group).mean() for group in groups]).mean()


def settings(bench: Bench) -> dict[str, tuple[int, int, Callable[[int], Any]]]:
    """name -> (steps, batches, the MODEL of a batch)."""
    found: dict[str, tuple[int, int, Callable[[int], Any]]] = {}
    for steps in STEPS:
        found[f"{steps} steps: unguided"] = (steps, GROUPS, lambda group: bench.model)
        for name, options in TEXT.items():
            found[f"{steps} steps: text, {name}"] = (
                steps,
                GROUPS,
                lambda group, options=options: bench.text(unwanted(group), **options),
            )
    many = 2 * GROUPS
    found["4 steps, many: unguided"] = (4, many, lambda group: bench.model)
    for name, options in NEGATIVE.items():
        found[f"4 steps, many: not the colour, {name}"] = (
            4,
            many,
            lambda group, options=options: bench.text(unwanted(group), **options),
        )
    for name, options in DIVERSITY.items():
        found[f"4 steps, many: diversity, {name}"] = (4, many, lambda group, options=options: bench.diverse(**options))
    return found


def plot(found: dict[str, dict[str, float]]) -> None:
    """What each guide is for against the right shapes, a point a setting."""
    unguided = "4 steps, many: unguided"
    panels = (
        ("Text Guide, 4 steps, cfg 1", ("4 steps: ",), "colour", "colour of the text (judge)"),
        ("Text Guide, 8 steps, cfg 1", ("8 steps: ",), "colour", "colour of the text (judge)"),
        ("Text Guide, negative", (unguided, "4 steps, many: not"), "colour", "unwanted colour (judge)"),
        ("Diversity Guide", (unguided, "4 steps, many: diversity"), "distance", "distance within a batch"),
    )
    figure, axes = pyplot.subplots(1, 4, figsize=(19, 4.6))
    for axis, (title, starts, key, said) in zip(axes, panels, strict=True):
        rows = [(name.split(": ")[1], row) for name, row in found.items() if name.startswith(starts)]
        for place, (name, row) in enumerate(rows):
            axis.plot(row["shape"], row[key], "os"[place // 10], label=name.removeprefix("diversity, "))
        axis.set_title(title)
        axis.set_xlabel("right shape, of the label (judge)")
        axis.set_ylabel(said)
        axis.legend(fontsize=7)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(RESULTS / "few_steps.png", dpi=80)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench few_steps")
    parser.add_argument("--only", nargs="+", default=[""], help="settings whose names hold one of these")
    parser.add_argument("--sheets", help="a folder for pictures of each setting, to look at")
    given = parser.parse_args()
    torch.set_num_threads(1)
    path, made = (
        RESULTS / "few_steps.json",
        made_with.hashes((made_with.FLOW, made_with.UNET, made_with.CLIP, made_with.JUDGE)),
    )
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    if found.get("made_with") != made:
        found = {"made_with": made, "settings": {}}
    with torch.inference_mode():
        bench = Bench()
        real = judge.load().features(render(draw(REAL, torch.Generator().manual_seed(REAL_SEED))).image)
        for name, (steps, groups, model) in settings(bench).items():
            if name in found["settings"] or not any(part in name for part in given.only):
                continue
            images = bench.drawn(model, steps, groups)
            found["settings"][name] = readings(images, real)
            path.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
            print(f"[bench] {name}: {found['settings'][name]}", file=sys.stderr, flush=True)
            if given.sheets:
                sheet(images[: 8 * BATCH]).save(f"{given.sheets}/{name.replace(' ', '_').replace(':', '')}.png")
    plot(found["settings"])
    made_with.record(path.with_suffix(".png"), made)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
