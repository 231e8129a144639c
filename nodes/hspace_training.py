"""Training h-space directions by text (Asyrp)."""

from __future__ import annotations

import json
import time
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..guidance.hspace_training import LOSSES
from . import sockets
from .host.errors import GuidanceNode, about
from .host.guides.encoder import Encoder
from .host.guides.guide import fingerprint
from .host.hspace.directions.training import FORMS, OPTIMIZERS, Recipe, Training, starts_of
from .host.hspace.edit import network_of, place_of
from .host.inversion import inversion_sigmas, no_conditioning
from .host.model import latent_shape
from .host.pictures import each_to_invert, require_vae
from .host.sampling import start_noise
from .hspace import CATEGORY, DIAL_MODEL_TOOLTIP
from .widgets import block_input, seed_input, size_input, steps_input


class TrainHSpaceDirection(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_TrainHSpaceDirection",
            display_name="Train HSpace Direction",
            category=CATEGORY,
            description="Teaches h-space a dial from two texts. Minutes on the pack's own models. A run that "
            "was stopped goes on when the same settings are queued again.",
            search_aliases=[
                "Asyrp",
                "h-space",
                "directional CLIP loss",
                "train slider",
                "concept slider",
                "语义隐空间",
                "训练",
            ],
            inputs=[
                io.Model.Input("model", tooltip=DIAL_MODEL_TOOLTIP),
                sockets.Encoder.Input(
                    "encoder", tooltip="A CLIP that sees pictures and reads texts: Load Guidance Encoder."
                ),
                io.String.Input("source_text", default="a shape", tooltip="What pictures show without the edit."),
                io.String.Input("target_text", default="a red shape", tooltip="What the dial leads to."),
                io.Combo.Input(
                    "form",
                    options=list(FORMS),
                    tooltip="What is learned. one direction: the same for all pictures, learned fastest. a direction "
                    "by noise level: one for each eighth of the run. delta block: the paper's small network, which "
                    "looks at each picture; for this pack's models.",
                ),
                seed_input(
                    "Noise of the first picture; picture i has seed + i. It stays as it is after a run.", changes=False
                ),
                io.Int.Input("samples", default=16, min=1, max=4096, tooltip="Pictures to learn on, without images."),
                io.Int.Input("rounds", default=10, min=1, max=1000, tooltip="How often each picture is gone through."),
                steps_input(20, "Steps of a run. The paper has 40."),
                io.Float.Input(
                    "end_percent",
                    default=0.5,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="Where the edit ends, the paper's t_edit: as later in HSpace Edit.",
                ),
                io.Float.Input(
                    "pull",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.05,
                    advanced=True,
                    tooltip="How hard the texts pull (the paper's lambda_CLIP).",
                ),
                io.Float.Input(
                    "keep",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.05,
                    advanced=True,
                    tooltip="How much the rest of the picture is kept as it is (lambda_recon).",
                ),
                io.Combo.Input(
                    "loss",
                    options=list(LOSSES),
                    default="paper",
                    advanced=True,
                    tooltip="paper: measured from the same step without the edit. code: -log of it, measured from the "
                    "finished picture.",
                ),
                io.Combo.Input(
                    "optimizer",
                    options=list(OPTIMIZERS),
                    default="Adam",
                    advanced=True,
                    tooltip="SGD with 0.5 is the published recipe, for delta blocks. Adam needs fewer rounds.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=0.01,
                    min=0.00001,
                    max=1000.0,
                    step=0.00001,
                    round=False,
                    advanced=True,
                    tooltip="Adam: 0.01 for directions, 0.003 for a delta block. SGD: 0.5.",
                ),
                io.Image.Input("images", optional=True, tooltip="Your own pictures to learn on; they are inverted."),
                io.Vae.Input("vae", optional=True, tooltip="The model's VAE, for models on latents."),
                io.Conditioning.Input(
                    "conditioning", optional=True, tooltip="What is sampled. The pack's own models can do without."
                ),
                size_input(
                    "Side of the pictures in pixels, without images. The pack's own models have theirs.", advanced=True
                ),
                block_input("-1: a third of the way."),
            ],
            outputs=[
                sockets.HSpace.Output(
                    display_name="hspace", tooltip="The dial, for HSpace Edit and Save HSpace Direction."
                ),
                io.String.Output(display_name="report", tooltip="How training went, round by round, as JSON."),
            ],
        )

    @classmethod
    def run(
        cls,
        model: Any,
        encoder: Encoder,
        seed: int,
        samples: int,
        size: int,
        images: Tensor | None = None,
        vae: Any | None = None,
        conditioning: Any | None = None,
        block: int = -1,
        **settings: Any,
    ) -> io.NodeOutput:
        with about("model"):
            network_of(model)
        with about("block"):
            place = place_of(model, block)
        with about("vae"):
            require_vae(model, vae)
        with about("conditioning"):
            conditioning = no_conditioning(model) if conditioning is None else conditioning
        seen = "" if images is None else fingerprint(images.cpu())
        recipe = Recipe(seed=seed, samples=samples, block=place, pictures=seen, **settings)
        with about("source_text, target_text or form"):
            training = Training(model, encoder, vae, conditioning, recipe)
        began = time.monotonic()
        rising = inversion_sigmas(model, recipe.steps, "")
        pictures = None if images is None else each_to_invert(model, images, vae, "images")
        noise = start_noise(model, latent_shape(model, size, vae), seed, samples)
        starts = starts_of(model, conditioning, rising, pictures, noise)
        known = training.run(starts, torch.cat([rising.flip(0), rising.new_zeros(1)]))
        return io.NodeOutput(
            [training.trained.edit(model)], json.dumps(report_of(training, known, len(starts), began), indent=1)
        )


def report_of(training: Training, known: int, batches: int, began: float) -> dict[str, Any]:
    """What was minimised, round by round; S_dir is the mean cosine between what changed and what should."""
    means = [sum(steps) / len(steps) for steps in training.losses]
    rounds = [means[start : start + batches] for start in range(0, len(means), batches)]
    by_round = [round(1 - sum(part) / len(part), 4) for part in rounds]
    return {
        "S_dir_by_round": by_round,
        "S_dir": by_round[-1],
        "batches": len(means),
        "taken_up_from_a_stopped_run": known,
        "minutes": round((time.monotonic() - began) / 60, 2),
    }


NODES: list[type[io.ComfyNode]] = [TrainHSpaceDirection]
