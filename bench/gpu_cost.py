"""`python dev.py bench gpu_cost`: what each feature costs on a GPU, in time and in memory.

Runs of 10 steps of euler on the host's SD1.5 (512 px, CFG 7), SDXL (1024 px, CFG 7) and on ADM (256 px, four pictures,
ddim), float16, random weights, a CLIP ViT-B/16 and TAESD; every feature with its defaults. Wall time over the plain
run in interleaved pairs, the device waited for at both ends of a run; peak memory above the plain run's. Growth with
pictures in a batch, with their side, with the number of guides and with steps, for a text guide and an h-space edit on
SD1.5. `--only` measures some parts and keeps the others' results. `--tiny` is all of it in small, on any device.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import matplotlib
import torch

from .costs import CFG, EDITS, GUIDES, SCALE, ADMRuns, Make, Runs, SDXLRuns
from .guided_step import load_pack
from .host_server import PACK
from .pairs import ratio

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

RESULTS = PACK / "bench" / "results"
KINDS = ("Text", "Style", "Structure", "Content")  # of guides, in the order in which they are added
TABLE: dict[str, Make] = {**GUIDES, **EDITS, **CFG}
GROWING: dict[str, Make] = {"text guide": GUIDES["text guide"], "h-space edit": EDITS["h-space edit"]}
Row = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How large everything is."""

    pairs: int
    steps: int
    batches: Sequence[int]
    sides: Sequence[int]  # in pixels, eight to one of a latent
    guides: Sequence[int]
    many_steps: Sequence[int]
    sdxl: int  # sides of the table
    adm: int
    narrow: bool = False


FULL = Sizes(5, 10, (1, 2, 4, 8), (512, 1024, 1536, 2048), (1, 2, 3, 4), (10, 20, 30, 50), 1024, 256)
TINY = Sizes(1, 2, (1, 2), (64, 128), (1, 2), (2, 3), 64, 64, narrow=True)


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(call: Callable[[], Any]) -> float:
    """Wall time until the device has done it."""
    wait()
    started = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - started


def peak_mb(call: Callable[[], Any]) -> float | None:
    """The most that PyTorch held on the GPU, nothing loaded before; None on a CPU."""
    if not torch.cuda.is_available():
        return None
    import comfy.model_management as mm

    mm.unload_all_models()
    mm.soft_empty_cache()
    torch.cuda.reset_peak_memory_stats()
    call()
    wait()
    return torch.cuda.max_memory_allocated() / 2**20


def compared(plain: Callable[[], Any], featured: Callable[[], Any], pairs: int) -> Row:
    """Time as a ratio, and memory above the plain run."""
    before, after = peak_mb(plain), peak_mb(featured)
    above = None if before is None or after is None else round(after - before, 1)
    return {**ratio(plain, featured, pairs, seconds), "plain_mb": before and round(before, 1), "above_plain_mb": above}


def rows(runs: Runs, features: Mapping[str, Make], steps: int, pairs: int) -> dict[str, Row]:
    """Each feature over the plain run."""
    sigmas, plain = runs.schedule(steps), runs.guider()
    found: dict[str, Row] = {}
    for name, make in features.items():
        guider = make(runs)
        found[name] = compared(lambda: runs.run(plain, sigmas), lambda g=guider: runs.run(g, sigmas), pairs)
        print(f"{name}: {found[name]['median']}", file=sys.stderr, flush=True)
    return found


def classified(runs: ADMRuns, steps: int, pairs: int) -> dict[str, Row]:
    """Classifier-guided over unguided, by ddim."""
    sigmas = runs.schedule(steps)
    plain, guided = runs.classified(guidance_scale=0.0), runs.classified()
    call = {name: lambda made=made: runs.run(made[0], sigmas, made[1]) for name, made in (("p", plain), ("g", guided))}
    return {"classifier-guided": compared(call["p"], call["g"], pairs)}


@dataclass(frozen=True)
class Bench:
    """All parts, by name."""

    runs: Runs  # of SD1.5
    sizes: Sizes
    growing: Mapping[str, Make] = field(default_factory=lambda: GROWING)

    def of_side(self, side: int, **options: Any) -> Runs:
        return replace(self.runs, latent=(4, side // 8, side // 8), **options)

    def sd15(self, features: Mapping[str, Make] = TABLE) -> dict[str, Row]:
        return rows(self.of_side(self.sizes.sides[0]), features, self.sizes.steps, self.sizes.pairs)

    def sdxl(self, features: Mapping[str, Make] = TABLE) -> dict[str, Row]:
        side = self.sizes.sdxl // 8
        options = {name: getattr(self.runs, name) for name in ("pack", "narrow", "dtype", "device", "cfg")}
        return rows(SDXLRuns(**options, latent=(4, side, side)), features, self.sizes.steps, self.sizes.pairs)

    def adm(self) -> dict[str, Row]:
        options = {name: getattr(self.runs, name) for name in ("pack", "narrow", "dtype", "device")}
        side = self.sizes.adm
        return classified(ADMRuns(**options, batch=4, latent=(3, side, side)), self.sizes.steps, self.sizes.pairs)

    def growth_of_batch(self) -> dict[str, dict[str, Row]]:
        return self._growth(self.sizes.batches, lambda count: self.of_side(self.sizes.sides[0], batch=count))

    def growth_of_side(self) -> dict[str, dict[str, Row]]:
        return self._growth(self.sizes.sides, self.of_side)

    def growth_of_steps(self) -> dict[str, dict[str, Row]]:
        runs, pairs = self.of_side(self.sizes.sides[0]), self.sizes.pairs
        return {str(steps): rows(runs, self.growing, steps, pairs) for steps in self.sizes.many_steps}

    def growth_of_guides(self) -> dict[str, dict[str, Row]]:
        runs = self.of_side(self.sizes.sides[0])
        features = {
            str(count): {"guides": lambda runs, count=count: runs.guider(runs.guided(*KINDS[:count]))}
            for count in self.sizes.guides
        }
        return {count: rows(runs, made, self.sizes.steps, self.sizes.pairs) for count, made in features.items()}

    def _growth(self, values: Sequence[int], runs: Callable[[int], Runs]) -> dict[str, dict[str, Row]]:
        return {str(value): rows(runs(value), self.growing, self.sizes.steps, self.sizes.pairs) for value in values}


PARTS: dict[str, Callable[[Bench], Any]] = {
    "SD1.5": Bench.sd15,
    "SDXL": Bench.sdxl,
    "ADM": Bench.adm,
    "pictures in a batch": Bench.growth_of_batch,
    "side in pixels": Bench.growth_of_side,
    "steps": Bench.growth_of_steps,
    "guides": Bench.growth_of_guides,
}
GROWTHS = list(PARTS)[3:]


def plot(result: dict[str, Any]) -> Any:
    """Ratio and memory of what grows, a column for each thing that it grows with."""
    measured = [name for name in GROWTHS if name in result]
    figure, axes = pyplot.subplots(2, max(1, len(measured)), figsize=(3.2 * max(1, len(measured)), 5), squeeze=False)
    for column, name in enumerate(measured):
        values = [float(value) for value in result[name]]
        for feature in next(iter(result[name].values())):
            found = [by_feature[feature] for by_feature in result[name].values()]
            axes[0, column].plot(values, [row["median"] for row in found], "o-", label=feature)
            if all(row["above_plain_mb"] is not None for row in found):
                axes[1, column].plot(values, [row["above_plain_mb"] for row in found], "o-", label=feature)
        axes[0, column].axhline(1, color="#999", linewidth=0.8)
        axes[1, column].set_xlabel(name)
        axes[0, column].legend(fontsize=7)
    axes[0, 0].set_ylabel("time over the plain run")
    axes[1, 0].set_ylabel("MB above the plain run")
    figure.tight_layout()
    return figure


def runs_for(sizes: Sizes) -> Runs:
    """On the GPU in float16, or in small on any device."""
    gpu = torch.cuda.is_available()
    pack = load_pack(cpu=not gpu)
    dtype = torch.float16 if gpu else torch.float32
    return Runs(pack, sizes.narrow, dtype, "cuda" if gpu else "cpu", cfg=SCALE)


def device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "a CPU, in small: no measure"


def main() -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench gpu_cost")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--pairs", type=int)
    parser.add_argument("--tiny", action="store_true", help="in small, on any device; nothing is written")
    given = parser.parse_args()
    if not given.tiny and not torch.cuda.is_available():
        sys.exit("gpu_cost measures a GPU, and PyTorch finds none here; run it where one is, or with --tiny to try it")
    sizes = TINY if given.tiny else FULL
    sizes = replace(sizes, pairs=given.pairs or sizes.pairs)
    path = RESULTS / "gpu_cost.json"
    kept = json.loads(path.read_text("utf-8")) if path.exists() and not given.tiny else {}
    about = {"device": device_name(), "torch": torch.__version__, "steps": sizes.steps, "pairs": sizes.pairs}
    if kept.get("about", about) != about:
        sys.exit(f"{path.name} holds figures of {kept['about']}, and this is {about}; move that file away first")
    with torch.inference_mode():
        bench = Bench(runs_for(sizes), sizes)
        result = {**kept, "about": about, **{name: PARTS[name](bench) for name in given.only}}
    if not given.tiny:
        path.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
        plot(result).savefig(RESULTS / "gpu_cost.png", dpi=120)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
