"""`python dev.py bench matching_scenes`: what each term of the matcher learns from how many scenes.

As in the paper words and regions are given: those of the shipped matcher, which stay as they are, so that neither term
helps or hinders the other. Self attention and cross attention begin from nothing, on so many scenes and their twins,
for the same number of pictures seen; `bench.matching` then asks both about the same unseen scenes. Two networks know
more than one, so self attention stands there twice too: the sum of two that were begun with other numbers.

Writes `bench/results/matching_scenes.json` after each training, so a run resumes, and `matching_scenes.png`.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import torch
from torch import Tensor, nn

from models.encoder import ImageEncoder
from models.mmca.network import Mmca
from training.loop import Loss, Run, train
from training.matching import CONFIG, ENCODER, RECIPE, Batch, batches, contrast, hinge, matching, read_by

from . import made_with
from .host_server import PACK
from .matching import MATCHER, galleries, loaded, tested

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

RESULT = PACK / "bench" / "results" / "matching_scenes.json"
SCENES, SEEN, PICTURES = (64, 256), 19_200, 500  # scenes; pictures seen in a training; asked about
GIVEN = ("region_in.", "text.")  # what both terms are given
STYLES = {
    "self attention": "C0o-",
    "self attention, twice": "C0v:",
    "cross attention": "C1s-",
    "both": "k^-",
    "the pack's CLIP": "C7--",
}


def self_alone(network: nn.Module, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """The losses of the global term."""
    assert isinstance(network, Mmca)
    scores = network.global_scores(*read_by(network, batch))
    return hinge(scores, batch.true) + contrast(scores, batch.true), {}


def trained(encoder: ImageEncoder, scenes: int, seed: int, loss: Loss) -> Mmca:
    """From nothing, on the same scenes for every seed."""
    torch.manual_seed(seed)
    network, given = Mmca(CONFIG), loaded(MATCHER, "matcher").state_dict()
    own = {key: given[key] if key.startswith(GIVEN) else value for key, value in network.state_dict().items()}
    network.load_state_dict(own)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not name.startswith(GIVEN))
    with tempfile.TemporaryDirectory() as folder:
        run = Run(network, replace(RECIPE, images=SEEN), "cpu", {})
        out = Path(folder) / "matcher.safetensors"
        options = argparse.Namespace(commit="", resume=None, compile=False, minutes=math.inf, out=out)
        train(run, loss, options, partial(batches, encoder, scenes))
    network.load_state_dict(run.ema)
    return network.eval().requires_grad_(False)


def draw(result: dict[str, Any], picture: Path) -> None:
    budgets = sorted(result["scenes"], key=int)
    tests = list(result["scenes"][budgets[0]])
    figure, axes = pyplot.subplots(1, len(tests), figsize=(3.4 * len(tests), 3.4), sharey=True, layout="constrained")
    for axis, test in zip(axes, tests, strict=True):
        for name, style in STYLES.items():
            values = [result["scenes"][budget][test][name]["recall@1"] for budget in budgets]
            axis.plot([int(budget) for budget in budgets], values, style, label=name)
        axis.set(title=test, xlabel="scenes trained on, with their twins", xscale="log", ylim=(0, 101))
        axis.set_xticks([int(budget) for budget in budgets], budgets)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set(ylabel="Recall@1 among 100, %")
    axes[0].legend(loc="lower right", fontsize=8)
    figure.savefig(picture, dpi=110)
    made_with.record(picture, result["made_with"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench matching_scenes")
    parser.add_argument("--scenes", type=int, nargs="+", default=SCENES)
    given = parser.parse_args()
    encoder = loaded(made_with.DEMO / "encoders" / ENCODER, "encoder")
    files = made_with.hashes([made_with.CLIP, MATCHER])
    result: dict[str, Any] = json.loads(RESULT.read_text("utf-8")) if RESULT.exists() else {}
    if result.get("made_with") != files:
        result = {"seen": SEEN, "pictures": PICTURES, "scenes": {}, "made_with": files}
    for scenes in given.scenes:
        if str(scenes) not in result["scenes"]:
            one, other = trained(encoder, scenes, 0, matching), trained(encoder, scenes, 1, self_alone)
            result["scenes"][str(scenes)] = tested(one, encoder, galleries(PICTURES), other)
            RESULT.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    draw(result, RESULT.with_suffix(".png"))


if __name__ == "__main__":
    main()
