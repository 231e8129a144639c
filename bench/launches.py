"""`python dev.py bench launches`: what each feature asks of a device, counted on a CPU.

Operations (on a GPU about one launch each) and synchronisations of one step, beside those of the same step without the
feature. Networks of SD1.5's, ViT-B/16's, TAESD's and ADM's depth, a few channels wide, on small samples: counts depend
on neither. One picture, CFG 7, euler, the whole run as window, else defaults. A step is what a run of two steps has
more than a run of one; what is done once in a run stands beside it as `once`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import matplotlib
import torch

from .costs import ALWAYS, CFG, EDITS, GUIDES, METHODS, SCALE, ADMRuns, Make, Runs
from .counted import Counted
from .guided_step import load_pack
from .host_server import PACK

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

RESULTS = PACK / "bench" / "results"
LEVELS = (5.0, 3.0, 2.0)
SIDE = 16  # of latents
Count = dict[str, int]  # operations and waits of a step, and of what is done once in a run


def counted(run: Callable[[torch.Tensor], Any]) -> Count:
    """Of one step of runs over given sigmas; the first run isn't counted, for what is measured once and kept."""
    run(torch.tensor(LEVELS))
    totals = []
    for sigmas in (LEVELS[1:], LEVELS):
        with Counted() as found:
            run(torch.tensor(sigmas))
        totals.append((found.operations.total(), found.waits.total()))
    (short, waited), (long, waited_long) = totals
    step, waits = long - short, waited_long - waited
    return {"operations": step, "waits": waits, "once": short - step, "waits_once": waited - waits}


def above(found: Count, plain: Count) -> Count:
    return {name: found[name] - plain[name] for name in found}


def others() -> dict[str, Make]:
    """Guides, estimators, edits and forms of CFG beside those that have a place in the table of times."""
    kinds = ("Content", "Palette")
    found: dict[str, Make] = {
        f"{kind.lower()} guide": lambda runs, kind=kind: runs.guider(runs.guided(kind)) for kind in kinds
    }
    found |= {
        "text guide, at denoised optimised": lambda runs: runs.guider(
            runs.guided("Text", gradient="at denoised optimised")
        ),
        "two Apply Guides": lambda runs: runs.guider(runs.guided("Style", model=runs.guided("Text"))),
        "two h-space edits": lambda runs: runs.guider(runs.edited(runs.edited())),
        "h-space edit outside its window": lambda runs: runs.guider(runs.edited(start_percent=0.99, end_percent=1.0)),
        "h-space injection": lambda runs: runs.guider(runs.injected()),
    }
    found |= {
        f"CFG Patch, {name}": lambda runs, name=name: runs.guider(runs.patched(name, **METHODS[name]))
        for name in METHODS
    }
    found |= {
        f"CFG Combiner, {name}": lambda runs, name=name: runs.combiner(reference=name)
        for name in ("perturbed self", "random condition", "other time")
    }
    return found


def latent_counts(runs: Runs, features: dict[str, Make]) -> dict[str, Count]:
    """Above the plain step of the same CFG. `plain`: that step itself."""

    def count(guider: Any) -> Count:
        return counted(lambda sigmas: runs.run(guider, sigmas))

    plain = count(runs.guider())
    return {"plain": plain, **{name: above(count(make(runs)), plain) for name, make in features.items()}}


def pixel_counts(runs: ADMRuns) -> dict[str, Count]:
    """Classifier guidance on ADM, above the sampler without a classifier; and an edit of its h-space."""

    def count(guider: Any, sampler: Any = None) -> Count:
        return counted(lambda sigmas: runs.run(guider, sigmas, sampler))

    found: dict[str, Count] = {}
    for algorithm in ("ddim", "ddpm"):
        plain = count(*runs.classified(algorithm, guidance_scale=0.0))
        found[f"ADM, {algorithm}"] = plain
        found[f"ADM, {algorithm}, classifier-guided"] = above(count(*runs.classified(algorithm)), plain)
    plain = count(runs.guider(cfg=1.0))
    return {**found, "ADM, h-space edit": above(count(runs.guider(runs.edited(), cfg=1.0)), plain)}


def measure() -> dict[str, dict[str, Count]]:
    runs = Runs(load_pack(), cfg=SCALE, window=ALWAYS, latent=(4, SIDE, SIDE))
    half = replace(runs, dtype=torch.bfloat16)
    pixels = ADMRuns(runs.pack, latent=(3, 4 * SIDE, 4 * SIDE), window=ALWAYS)
    return {
        "SD1.5's shape": latent_counts(runs, {**GUIDES, **EDITS, **CFG, **others()}),
        "SD1.5's shape in bf16": latent_counts(half, {**EDITS, **CFG}),
        "ADM's shape": pixel_counts(pixels),
    }


def plot(result: dict[str, dict[str, Count]]) -> None:
    """What features add to a step, over the plain step; waits beside the bars."""
    rows = result["SD1.5's shape"]
    plain, names = rows["plain"]["operations"], [name for name in rows if name != "plain"][::-1]
    figure, axes = pyplot.subplots(figsize=(8, 0.24 * len(names) + 1.2))
    bars = axes.barh(names, [rows[name]["operations"] / plain for name in names], color="#4878a8")
    axes.bar_label(bars, [f"{rows[name]['operations']}, waits {rows[name]['waits']}" for name in names], fontsize=6)
    axes.set_xlabel(f"operations above a plain step's {plain}, as a share of them")
    axes.tick_params(labelsize=7)
    axes.margins(x=0.2)
    figure.tight_layout()
    figure.savefig(RESULTS / "launches.png", dpi=120)


def main() -> None:
    torch.set_num_threads(1)
    with torch.inference_mode():
        result = measure()
    (RESULTS / "launches.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    plot(result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
