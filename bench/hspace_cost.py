"""`python dev.py bench hspace_cost`: what an edit in h-space costs beside a plain step.

Runs of 4 steps of euler at cfg 1, without and with HSpace Edit (asymmetric, a direction of random numbers), inside its
window and outside: the shipped U-Net on 8 pictures, and a U-Net of SD1.5's shape a fifth as wide, weights random, on
32 x 32 latents. Process CPU time of one thread, interleaved pairs.
"""

from __future__ import annotations

import argparse
import importlib
import json
from typing import Any

import torch
from torch import Tensor

from .cfg import Bench, noise_of
from .guide_cost import unet
from .host_server import PACK
from .pairs import ratio

RESULT = PACK / "bench" / "results" / "hspace_cost.json"
BATCH, STEPS = 8, 4
WIDTH, SIZE = 64, 32  # of the host's U-Net and its latents
WINDOWS = {"inside": (0.0, 1.0), "outside": (0.98, 0.99)}  # the last falls between two steps


def edited(bench: Bench, model: Any, channels: int, window: tuple[float, float]) -> Any:
    """The MODEL with a direction in that window."""
    hspace: Any = importlib.import_module("pack.nodes.host.hspace.edit")
    edits = [hspace.direction_edit(torch.randn(1, channels, 1, 1), name="random")]
    start, end = window
    return bench.node("Guidance_HSpaceEdit", model=model, hspace=edits, start_percent=start, end_percent=end)[0]


def cost(bench: Bench, model: Any, channels: int, noise: Tensor, conditioning: Any, pairs: int) -> dict[str, Any]:
    """An edited run over a plain one, by window."""
    import comfy.sample

    empty = torch.zeros_like(noise)
    options = {"disable_pbar": True, "seed": 0}

    def run(model: Any) -> None:
        comfy.sample.sample(model, noise, STEPS, 1.0, "euler", "normal", conditioning, conditioning, empty, **options)

    models = {name: edited(bench, model, channels, window) for name, window in WINDOWS.items()}
    return {name: ratio(lambda: run(model), lambda other=other: run(other), pairs) for name, other in models.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench hspace_cost")
    parser.add_argument("--pairs", type=int, default=20)
    pairs = parser.parse_args().pairs
    torch.set_num_threads(1)
    with torch.inference_mode():
        bench = Bench()
        config = bench.model.model.diffusion_model.network.config
        channels = config.model_channels * config.channel_mult[-1]
        star = bench.conditioning("star")
        context = [[torch.randn(1, 77, 768), {}]]
        latents = torch.randn(1, 4, SIZE, SIZE)
        result = {
            "steps": STEPS,
            "shipped U-Net, 8 pictures": cost(bench, bench.model, channels, noise_of(BATCH, 0), star, pairs),
            "SD1.5's shape, 64 channels": cost(bench, unet(WIDTH), 4 * WIDTH, latents, context, pairs),
        }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
