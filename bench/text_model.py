"""`python dev.py bench text_model`: the shipped text-conditional U-Net, told what to draw in GLIDE's two ways.

Captions with all four attributes, judged by a network that no guide and no training has seen. Classifier-free guidance
at several scales against CLIP guidance (Text Guide on the noise-aware encoder, no classifier-free guidance) at several
weights: 64 captions, 4 pictures each, the same noise everywhere, 25 steps of euler_ancestral. Match of all four,
distance between the pictures of a caption, KID to rendered scenes. Then 256 captions at the best scale.
Writes `bench/results/text_model.json` and a plot; a run resumes.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import matplotlib
import torch
from torch import Tensor

from training.captions import phrase
from training.scenes import CLASSES, Attributes, draw

from . import judge, made_with
from .cfg import kid, real_features
from .host_server import PACK
from .pack import Pack, ksampler

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

RESULTS = PACK / "bench" / "results"
CAPTIONS, EACH, STEPS, SAMPLER = 64, 4, 25, "euler_ancestral"
SCALES = (1.0, 2.0, 3.0, 5.0, 8.0)
WEIGHTS = (0.25, 0.5, 1.0, 2.0, 4.0)
MANY = 256  # captions at the best scale
MADE_WITH = (made_with.TEXT, made_with.CLIP, made_with.JUDGE)


class Bench(Pack):
    def __init__(self) -> None:
        super().__init__()
        self.base = self.node("Guidance_LoadModel", model_name="scenes_text.safetensors")[0]
        self.encoder = self.node("Guidance_LoadEncoder", encoder_name="scenes_clip.safetensors")[0]

    def text(self, model: Any, caption: str) -> Any:
        return self.node("Guidance_TextConditioning", model=model, text=caption)[0]

    def by_cfg(self, caption: str, scale: float, noise: Tensor) -> Tensor:
        positive, negative = self.text(self.base, caption), self.text(self.base, "")
        return ksampler(self.base, scale, positive, negative, noise, STEPS, SAMPLER)

    def by_clip(self, caption: str, weight: float, noise: Tensor) -> Tensor:
        options = {"start_percent": 0.0, "end_percent": 1.0, "weight": weight}
        (guide,) = self.node("Guidance_TextGuide", encoder=self.encoder, text=caption, **options)
        (model,) = self.node("Guidance_ApplyGuides", model=self.base, guides=guide)
        positive = self.text(self.base, caption)
        return ksampler(model, 1.0, positive, positive, noise, STEPS, SAMPLER)


def captioned(count: int, seed: int) -> tuple[Attributes, list[str]]:
    """Scenes and what is said of each, all four attributes."""
    drawn = draw(count, torch.Generator().manual_seed(seed))
    names = [list(CLASSES.values())[k] for k in range(4)]
    return drawn, [
        phrase([group[index] for group, index in zip(names, row, strict=True)], False)
        for row in drawn.labels().tolist()
    ]


def matches(images: Tensor, labels: Tensor) -> dict[str, float]:
    """Shares of pictures [B 3 32 32] with each wanted class [B 4], and with all four."""
    said = judge.classify(images)
    right = torch.stack([said[name] == labels[:, k] for k, name in enumerate(CLASSES)], dim=1)
    shares = dict(zip(CLASSES, right.float().mean(0).tolist(), strict=True))
    return {key: round(value, 4) for key, value in {**shares, "all": right.all(1).float().mean().item()}.items()}


def compared(images: Tensor, labels: Tensor, real: Tensor) -> dict[str, float]:
    groups = images.flatten(1).unflatten(0, (CAPTIONS, EACH))
    apart = torch.stack([torch.pdist(group).mean() for group in groups]).mean() / images[0].numel() ** 0.5
    distance = kid(judge.load().features(images.clamp(-1, 1)), real)
    return {**matches(images, labels), "distance": round(apart.item(), 4), "kid": round(distance, 4)}


def noise_of(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def curves(bench: Bench, found: dict[str, Any], save: Any) -> None:
    drawn, captions = captioned(CAPTIONS, 41)
    labels, noise = drawn.labels().repeat_interleave(EACH, 0), noise_of(CAPTIONS, EACH, 3, 32, 32, seed=42)
    real = real_features()
    for name, strengths, way in (("CFG", SCALES, bench.by_cfg), ("CLIP guidance", WEIGHTS, bench.by_clip)):
        cells = found["curves"].setdefault(name, {})
        for strength in strengths:
            if str(strength) in cells:
                continue
            drawn_now = [way(caption, strength, start) for caption, start in zip(captions, noise, strict=True)]
            cells[str(strength)] = compared(torch.cat(drawn_now), labels, real)
            save()
            print(name, strength, cells[str(strength)], file=sys.stderr, flush=True)


def at_the_best_scale(bench: Bench, cells: dict[str, dict[str, float]]) -> dict[str, float]:
    scale = max(SCALES, key=lambda scale: cells[str(scale)]["all"])
    drawn, captions = captioned(MANY, 43)
    noise = noise_of(MANY, 1, 3, 32, 32, seed=44)
    images = [bench.by_cfg(caption, scale, start) for caption, start in zip(captions, noise, strict=True)]
    return {"scale": scale, **matches(torch.cat(images), drawn.labels())}


def plot(found: dict[str, Any]) -> None:
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4.2))
    for axis, key, label in (
        (axes[0], "distance", "distance between the pictures of a caption"),
        (axes[1], "kid", "KID (lower is nearer to scenes)"),
    ):
        for name, cells in found["curves"].items():
            points = [(cells[strength]["all"], cells[strength][key]) for strength in sorted(cells, key=float)]
            axis.plot(*zip(*points, strict=True), "o-", label=name)
        axis.set_xlabel("all four attributes right (judge)")
        axis.set_ylabel(label)
        axis.legend()
    figure.tight_layout()
    figure.savefig(RESULTS / "text_model.png", dpi=90)
    pyplot.close(figure)


def main() -> None:
    torch.set_num_threads(1)
    path, made = RESULTS / "text_model.json", made_with.hashes(MADE_WITH)
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    if found.get("made_with") != made:
        found = {"made_with": made, "curves": {}}

    def save() -> None:
        path.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
        plot(found)
        made_with.record(RESULTS / "text_model.png", made)

    with torch.inference_mode():
        bench = Bench()
        curves(bench, found, save)
        if "best" not in found:
            found["best"] = at_the_best_scale(bench, found["curves"]["CFG"])
            save()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
