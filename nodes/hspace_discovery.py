"""Dials of h-space out of two conditions, two sets of pictures, or what varies by itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from . import sockets
from .host.errors import GuidanceNode, about
from .host.hspace.directions.search import (
    SHEET,
    check_samples,
    contrast,
    contrast_of_pictures,
    principal_components,
    sheet,
)
from .host.hspace.directions.sensitivity import SAMPLES, sensitivity
from .host.hspace.edit import Edit, network_of, place_of
from .host.hspace.run import applications
from .host.model import blocks_of, is_pixel_model, latent_shape
from .host.pictures import each_to_invert, require_vae
from .host.sampling import start_noise
from .hspace import CATEGORY, DIAL_MODEL_TOOLTIP, DIRECTION_TOOLTIP
from .widgets import FIXED, block_input, seed_input, size_input, steps_input


class DiscoverHSpace(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_DiscoverHSpace",
            display_name="Discover HSpace",
            category=CATEGORY,
            description="Finds directions of h-space without training: what two conditions or two sets of pictures "
            "differ in, or what varies most from sample to sample.",
            search_aliases=[
                "Asyrp",
                "PCA",
                "contrast",
                "semantic direction",
                "h-space",
                "concept slider",
                "语义隐空间",
                "发现方向",
            ],
            inputs=[
                io.Model.Input("model", tooltip=DIAL_MODEL_TOOLTIP),
                io.Combo.Input(
                    "method",
                    options=["contrast", "pca"],
                    tooltip="contrast: what positive has and negative has not. pca: what varies most among pictures of "
                    "positive.",
                ),
                io.Conditioning.Input("positive", tooltip="What the direction leads to; with pca what is sampled."),
                seed_input("Noise of the first sample; sample i has seed + i.", changes=FIXED),
                io.Int.Input(
                    "samples", default=16, min=2, max=512, tooltip="How many pictures are drawn to learn from."
                ),
                io.Int.Input(
                    "components", default=4, min=1, max=16, tooltip="With pca: how many are shown on the sheet."
                ),
                io.Int.Input("component", default=1, min=1, max=16, tooltip="With pca: which one is handed on."),
                steps_input(20, "Steps of each sample.", most=200),
                size_input("Side of the pictures in pixels. The pack's own models have theirs."),
                io.Conditioning.Input("negative", optional=True, tooltip="With contrast: what it leads away from."),
                io.Vae.Input("vae", optional=True, tooltip="For models on latents: to draw the sheet."),
                io.Image.Input(
                    "positive_images",
                    optional=True,
                    tooltip="With contrast: pictures that have it. They are inverted under positive.",
                ),
                io.Image.Input(
                    "negative_images", optional=True, tooltip="With contrast: pictures of the same size that don't."
                ),
                block_input("-1: all are tried, and the one whose direction does most is taken; the report says how."),
            ],
            outputs=[
                sockets.HSpace.Output(display_name="hspace", tooltip=DIRECTION_TOOLTIP),
                io.Image.Output(
                    display_name="sheet", tooltip="One picture at strength -2, -1, 0, 1, 2; a row a direction."
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="Of a transformer: what each block's direction does at which part of the run, as JSON.",
                ),
            ],
        )

    @classmethod
    def run(
        cls,
        model: Any,
        method: str,
        positive: Any,
        seed: int,
        samples: int,
        components: int,
        component: int,
        steps: int,
        size: int,
        negative: Any | None = None,
        vae: Any | None = None,
        positive_images: Tensor | None = None,
        negative_images: Tensor | None = None,
        block: int = -1,
    ) -> io.NodeOutput:
        with about("model"):
            count = blocks_of(model)
            network_of(model)
            if count and applications(model):
                raise ValueError(
                    "this transformer has an HSpace Edit already, and directions are found and tried at the model "
                    "itself; connect the MODEL in front of HSpace Edit"
                )
        with about("block"):
            place = place_of(model, block)
        with about("vae"):
            require_vae(model, vae)
        pair = image_sets(positive_images, negative_images)
        with about("negative"):
            if method == "contrast" and negative is None and pair is None:
                raise ValueError("a contrast needs two conditions; connect negative, or choose pca")
        with about("component"):
            if method == "pca" and component > components:
                raise ValueError(f"component {component} was asked for, and there are {components}")
        with about("samples"):
            if method == "pca":
                check_samples(components, samples)
        noise = start_noise(model, latent_shape(model, size, vae), seed, samples)
        conditions = (positive, positive if method == "pca" or pair is not None else negative)
        find = finder(model, method, conditions, pair, vae, noise, steps, components)
        report = {"place": "bottleneck"}
        if place is not None and block < 0:
            wanted = positive if method == "contrast" and pair is None else None
            tried = sensitivity(model, conditions[1], wanted, noise, steps, lambda block: find(block, SAMPLES)[0])
            place, report = tried.block, tried.report()
        elif place is not None:
            report = {"block": place, "blocks": count}
        found = find(place, samples)
        latents = sheet(model, found, conditions[1], noise, steps)
        chosen = found[component - 1] if method == "pca" else found[0]
        picture = tiled(decoded(model, vae, latents), len(SHEET))
        return io.NodeOutput([chosen], picture, json.dumps(report, indent=1))


Finder = Callable[[int | None, int], list[Edit]]  # (block of a transformer, from how many samples) -> directions


def finder(
    model: Any,
    method: str,
    conditions: tuple[Any, Any],
    pair: tuple[Tensor, Tensor] | None,
    vae: Any,
    noise: Tensor,
    steps: int,
    components: int,
) -> Finder:
    """How directions are found behind a block. `conditions`: what they lead to, and what is drawn."""
    if method == "pca":

        def pca(block: int | None, samples: int) -> list[Edit]:
            few = max(samples, components + 1) if samples < len(noise) else samples
            return principal_components(model, conditions[0], noise[:few], steps, components, block)

        return pca
    if pair is not None:
        names = ("positive_images", "negative_images")
        latents = [each_to_invert(model, images, vae, name) for images, name in zip(pair, names, strict=True)]

        def of_pictures(block: int | None, samples: int) -> list[Edit]:
            few = None if samples == len(noise) else samples
            return contrast_of_pictures(model, conditions[0], (latents[0][:few], latents[1][:few]), steps, block)

        return of_pictures
    return lambda block, samples: contrast(model, *conditions, noise[:samples], steps, block)


def image_sets(positive: Tensor | None, negative: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """Both sets, or None where none is wired."""
    if positive is None and negative is None:
        return None
    with about("positive_images" if positive is None else "negative_images"):
        if positive is None or negative is None:
            raise ValueError("a contrast needs two sets of pictures, and only one is connected; connect this one too")
        if positive.shape[1:3] != negative.shape[1:3]:
            sizes = [f"{images.shape[2]} x {images.shape[1]}" for images in (positive, negative)]
            raise ValueError(f"both sets need one size, and they have {sizes[0]} and {sizes[1]}; scale one of them")
    return positive, negative


def decoded(model: Any, vae: Any, latents: Tensor) -> Tensor:
    """IMAGE of latents."""
    if is_pixel_model(model):
        return (latents.movedim(1, -1).cpu() + 1).clamp(0, 2) / 2
    return vae.decode(latents).flatten(0, -4)  # a video model's pictures have a frame each


def tiled(pictures: Tensor, columns: int) -> Tensor:
    """IMAGE [n H W C] -> one picture, row by row."""
    rows = pictures.split(columns)
    return torch.cat([torch.cat(list(row), dim=1) for row in rows], dim=0)[None]


NODES: list[type[io.ComfyNode]] = [DiscoverHSpace]
