"""`python dev.py bench cfg`: conditions put together, and what each form of CFG pays for accuracy.

On the shipped U-Net, through the host's samplers in this process. Composition: 128 pictures a setting, 30 steps.
Fronts: 512 pictures a cell, 64 a shape, the same noise everywhere, 20 steps of ddim; accuracy of the shape by the judge
against KID (unbiased, cubic kernel, of the judge's last features, to 4096 scenes) and against the mean pairwise
distance within a class. Writes `bench/results/cfg.json` and `cfg.png` after every cell, so a run resumes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import matplotlib
import torch
from torch import Tensor

from training.scenes import CLASSES, COLOURS, SHAPES, draw, render

from . import judge, made_with
from .host_server import PACK
from .pack import Pack, ksampler

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

RESULTS = PACK / "bench" / "results"
EACH, AT_ONCE = 64, 128  # pictures of a shape; pictures in one batch
SCALES = (3.0, 8.0, 1.5, 5.0)  # in the order in which they are measured
STRENGTHS = (0.4, 0.8, 0.2, 0.6)  # CFG++'s, which has no scale
LOW, HIGH = 0.19, 1.6  # sigma of the interval: .38 and 3.2 times the data's deviation, .5 (Kynkaanniemi et al. 2024)
REAL, REAL_SEED = 4096, 770_101
Sample = Callable[[float], tuple[Any, float]]  # scale -> MODEL, cfg


class Bench(Pack):
    def __init__(self) -> None:
        super().__init__()
        self.model = self.node("Guidance_LoadModel", model_name="scenes_unet.safetensors")[0]

    def conditioning(self, *labels: str) -> Any:
        return self.node("Guidance_ClassConditioning", model=self.model, class_label="\n".join(labels))[0]

    def patch(self, method: str, scale: float = 0.0, window: dict[str, Any] | None = None, **settings: float) -> Any:
        chosen = {"method": method, **settings}
        options = {"guidance_scale": scale, **(window or {})}
        return self.node("Guidance_CFGPatch", model=self.model, method=chosen, **options)[0]

    def percent(self, sigma: float) -> float:
        """The inverse of `percent_to_sigma`."""
        sampling, low, high = self.model.model.model_sampling, 0.0, 1.0
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if float(sampling.percent_to_sigma(middle)) > sigma else (low, middle)
        return low

    def combined(self, conditions: list[tuple[str, float]], noise: Tensor, method: dict[str, Any]) -> Tensor:
        import comfy.samplers

        wired = {
            f"condition{k}": self.node(
                "Guidance_CFGCondition", conditioning=self.conditioning(label), guidance_scale=scale
            )[0]
            for k, (label, scale) in enumerate(conditions)
        }
        inputs = {"conditions": wired, "negative": self.conditioning(""), "method": method}
        guider = self.node("Guidance_CFGCombiner", model=self.model, **inputs)[0]
        sigmas = comfy.samplers.calculate_sigmas(self.model.model.model_sampling, "normal", 30)
        sampler = comfy.samplers.sampler_object("ddim")
        return guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True, seed=0)

    def settings(self) -> dict[str, tuple[tuple[float, ...], Sample]]:
        """Every form: its strengths, and how to sample with one."""
        interval = {"start_percent": self.percent(HIGH), "end_percent": self.percent(LOW)}

        def patched(method: str, window: dict[str, Any] | None = None, **settings: float) -> Sample:
            return lambda scale: (self.patch(method, scale, window, **settings), 1.0)

        return {
            "constant": (SCALES, lambda scale: (self.model, scale)),
            "interval": (SCALES, patched("constant", interval)),
            "linear": (SCALES, patched("constant", {"curve": "linear"})),
            "cosine": (SCALES, patched("constant", {"curve": "cosine"})),
            "APG": (SCALES, patched("APG", eta=0.0, cap=100.0, momentum=-0.5)),
            "rescale": (SCALES, patched("rescale", phi=0.7)),
            "CFG++": (STRENGTHS, lambda strength: (self.patch("CFG++", strength=strength), 1.0)),
        }


def noise_of(count: int, seed: int) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def kid(features: Tensor, real: Tensor) -> float:
    """Unbiased squared MMD with the kernel (x . y / d + 1)^3 (Binkowski et al. 2018), [n d] against [m d]."""
    a, b = features.double(), real.double()

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    within = [(k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1)) for k in (kernel(a, a), kernel(b, b))]
    return float(within[0] + within[1] - 2 * kernel(a, b).mean())


def real_features() -> Tensor:
    scenes = render(draw(REAL, torch.Generator().manual_seed(REAL_SEED)))
    return torch.cat([judge.load().features(part) for part in scenes.image.split(512)])


def measure(images: Tensor, real: Tensor) -> dict[str, float]:
    """Of 64 pictures a shape, in the order of shapes."""
    wanted = torch.arange(len(SHAPES)).repeat_interleave(EACH)
    said = judge.classify(images)["shape"]
    groups = images.flatten(1).unflatten(0, (len(SHAPES), EACH))
    apart = sum(torch.pdist(group).mean().item() for group in groups) / len(groups) / images[0].numel() ** 0.5
    features = judge.load().features(images.clamp(-1, 1))
    return {
        "accuracy": round((said == wanted).float().mean().item(), 4),
        "kid": round(kid(features, real), 6),
        "distance": round(apart, 4),
    }


def cell(bench: Bench, sample: Sample, strength: float, real: Tensor) -> dict[str, float]:
    labels = [name for name in SHAPES for _ in range(EACH)]
    noise = noise_of(len(labels), 11)
    model, cfg = sample(strength)
    parts = [
        ksampler(
            model,
            cfg,
            bench.conditioning(*labels[start : start + AT_ONCE]),
            bench.conditioning(""),
            noise[start : start + AT_ONCE],
            20,
        )
        for start in range(0, len(labels), AT_ONCE)
    ]
    return measure(torch.cat(parts), real)


def composition(bench: Bench) -> dict[str, Any]:
    """AND of eight pairs of shape and colour, NOT of a colour, and what Perp-Neg leaves of a wanted shape."""
    names, colours = list(SHAPES), list(COLOURS)
    noise = noise_of(128, 5).split(16)
    plain = {"method": "constant"}

    def right(images: list[Tensor], attribute: str, wanted: list[str]) -> float:
        index = torch.tensor([CLASSES[attribute].index(name) for name in wanted]).repeat_interleave(16)
        return round((judge.classify(torch.cat(images))[attribute] == index).float().mean().item(), 4)

    both = [bench.combined([(s, 3.0), (c, 3.0)], n, plain) for s, c, n in zip(names, colours, noise, strict=True)]
    alone = [bench.combined([("", 1.0)], n, plain) for n in noise]
    no = [bench.combined([("", 1.0), (c, -2.0)], n, plain) for c, n in zip(colours, noise, strict=True)]
    shape = [bench.combined([(s, 4.0)], n, plain) for s, n in zip(names, noise, strict=True)]
    pairs = list(zip(names, colours, noise, strict=True))
    minus = [bench.combined([(s, 4.0), (c, -2.0)], n, plain) for s, c, n in pairs]
    perp = [bench.combined([(s, 4.0), (c, -2.0)], n, {"method": "perp-neg", "strength": 1.0}) for s, c, n in pairs]
    return {
        "and": {"shape": right(both, "shape", names), "colour": right(both, "colour", colours)},
        "unwanted colour": {
            "unguided": right(alone, "colour", colours),
            "not": right(no, "colour", colours),
            "shape alone": right(shape, "colour", colours),
            "shape, not colour": right(minus, "colour", colours),
            "shape, perp-neg": right(perp, "colour", colours),
        },
        "wanted shape": {
            "shape alone": right(shape, "shape", names),
            "shape, not colour": right(minus, "shape", names),
            "shape, perp-neg": right(perp, "shape", names),
        },
    }


def draw_fronts(fronts: dict[str, dict[str, dict[str, float]]]) -> None:
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5))
    for axis, key in zip(axes, ("kid", "distance"), strict=True):
        for name, cells in fronts.items():
            points = [(cells[strength]["accuracy"], cells[strength][key]) for strength in sorted(cells, key=float)]
            axis.plot(*zip(*points, strict=True), "o-", label=name)
        axis.set_xlabel("accuracy of the shape (judge)")
        axis.set_ylabel({"kid": "KID (lower is nearer to scenes)", "distance": "distance between pictures"}[key])
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(RESULTS / "cfg.png", dpi=90)
    pyplot.close(figure)


def main() -> None:
    torch.set_num_threads(1)
    path = RESULTS / "cfg.json"
    made = made_with.hashes((made_with.UNET, made_with.JUDGE))
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    if found.get("made_with") != made:
        found = {"made_with": made, "fronts": {}}
    with torch.inference_mode():
        bench = Bench()

        def save() -> None:
            path.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
            draw_fronts(found["fronts"])
            made_with.record(RESULTS / "cfg.png", made)

        if "composition" not in found:
            found["composition"] = composition(bench)
            save()
        real = real_features()
        for place in range(len(SCALES)):  # every form at its first strength, then at its second
            for name, (strengths, sample) in bench.settings().items():
                cells = found["fronts"].setdefault(name, {})
                key = str(strengths[place])
                if key not in cells:
                    cells[key] = cell(bench, sample, strengths[place], real)
                    save()
                    print(name, key, cells[key], file=sys.stderr, flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
