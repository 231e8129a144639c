"""`python dev.py bench transformer_dial`: h-space's four properties (Asyrp, section 5) in a transformer.

The pack's small flow transformer, as the host loads it: euler of 20 steps (shift 2, simple), 128 samples without a
text. A direction is what Discover HSpace finds behind the block that it chooses: the mean difference of the residual
stream between a text and none at the same pictures, in 8 ranges of the run. Judged by `bench/judge`, by the same
functions as `bench hspace`. Writes `bench/results/transformer_dial.json` part by part, and `transformer_dial.png`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import made_with
from .host_server import PACK
from .hspace import PARTS, SAMPLES, Readings, sheet
from .pack import Pack, ksampler

RESULT = PACK / "bench" / "results" / "transformer_dial.json"
SHAPE, SEED, STEPS, LEARNED_ON, SHIFT = (48, 1, 8, 8), 880_017, 20, 32, 2.0
DIALS = {"red": "a red shape", "star": "a star", "black background": "a shape on a black background"}
UNITS = {"red": 2.0, "star": 2.0, "black background": 0.5}  # what strength 1 is, as a strength of Discover's contrast
WINDOW = {"start_percent": 0.0, "end_percent": 0.5}


class Transformer(Pack):
    """The model with its dials."""

    no_class = ""

    def __init__(self) -> None:
        super().__init__("--deterministic")  # channels_last is nothing for the layers of a video model
        import comfy.sd
        from comfy_extras.nodes_model_advanced import ModelSamplingSD3

        loaded = comfy.sd.load_diffusion_model(str(made_with.TRANSFORMER))
        (self.model,) = ModelSamplingSD3().patch(loaded, SHIFT)
        (self.vae,) = self.node("Guidance_WaveletVAE", model=self.model)
        (self.clip,) = self.node("Guidance_LoadEncoder", encoder_name=made_with.CLIP.name)
        self.block: int | None = None
        self.window = WINDOW

    def text(self, text: str) -> Any:
        return self.node("Guidance_TextConditioning", model=self.model, text=text, clip=self.clip)[0]

    def direction(self, dial: str, block: int | None = -1) -> tuple[Any, dict[str, Any]]:
        """The edit that Discover HSpace finds, and what it reports."""
        found, _, report = self.node(
            "Guidance_DiscoverHSpace",
            model=self.model,
            method="contrast",
            positive=self.text(DIALS[dial]),
            negative=self.text(""),
            vae=self.vae,
            samples=LEARNED_ON,
            steps=STEPS,
            size=32,
            seed=SEED + 1,
            block=block,
        )
        return found[0], json.loads(report)

    def run(self, noise: Tensor, text: str, delta: Tensor | None = None, symmetric: bool = False) -> Tensor:
        """Pictures [B 3 32 32]; delta [8 C h w] behind the block."""
        return torch.cat([self._run(part, text, delta, symmetric) for part in noise.split(64)])

    def _run(self, noise: Tensor, text: str, delta: Tensor | None, symmetric: bool) -> Tensor:
        model, said = self.model, self.text(text)
        if delta is not None:
            edit = self.nodes_edit(delta)
            given = {"model": model, "hspace": [edit], "asymmetric": not symmetric, **self.window}
            (model,) = self.node("Guidance_HSpaceEdit", **given)
        latents = ksampler(model, 1.0, said, said, noise, STEPS, "euler", "simple")
        return self.vae.decode(latents).flatten(0, 1).movedim(-1, 1) * 2 - 1

    def nodes_edit(self, delta: Tensor) -> Any:
        import importlib

        return importlib.import_module("pack.nodes.host.hspace.edit").direction_edit(delta, name="d", block=self.block)


@torch.inference_mode()
def main(arguments: Sequence[str]) -> None:
    torch.set_num_threads(1)
    made = made_with.hashes((made_with.TRANSFORMER, made_with.CLIP, made_with.JUDGE))
    found: dict[str, Any] = json.loads(RESULT.read_text("utf-8")) if RESULT.exists() else {}
    if found.get("made_with") != made:
        found = {"made_with": made}
    model = Transformer()
    tried = {dial: model.direction(dial) for dial in DIALS}
    blocks = [report["block"] for _, report in tried.values()]
    model.block = max(set(blocks), key=blocks.count)
    found["blocks"] = {dial: report for dial, (_, report) in tried.items()}
    edits = {
        dial: edit if report["block"] == model.block else model.direction(dial, model.block)[0]
        for dial, (edit, report) in tried.items()
    }
    deltas = {dial: UNITS[dial] * edit.tensors["delta_h"] for dial, edit in edits.items()}
    noise = torch.randn(SAMPLES, *SHAPE, generator=torch.Generator().manual_seed(SEED))
    readings = Readings(model, noise)
    picture = RESULT.with_suffix(".png")
    sheet(readings, deltas, picture)
    made_with.record(picture, made)
    for part, measure in PARTS.items():
        if part not in found:
            found[part] = measure(readings, deltas)
            RESULT.write_text(json.dumps({**found, "strength 1": UNITS}, indent=1) + "\n", "utf-8")
            print(part, json.dumps(found[part]), file=sys.stderr, flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
