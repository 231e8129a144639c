"""A U-Net as two halves, on our networks and on the host's own without changing their code: to h, and on from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import forward_timestep_embed
from torch import Tensor

from ..pixel_model import HALVES, PixelNetwork

VIDEO = ("time_context", "num_video_frames", "image_only_indicator")  # what the host hands to each block of SVD
Options = dict[str, Any]  # transformer_options
Evaluate = Callable[[Options], Tensor]  # transformer_options -> the network's output


@dataclass(frozen=True, eq=False)
class Halves:
    """One evaluation of a U-Net, cut at its bottleneck."""

    plain: Tensor  # its output
    h: Tensor  # [B C h w]
    emb: Tensor  # [B E]; zeros on hosts that don't hand it out
    decode: Callable[[Tensor], Tensor]  # another h -> output


def halves_of(network: Any, evaluate: Evaluate, options: Options, arguments: dict[str, Any]) -> Halves | Tensor:
    """Of one of our networks or a U-Net of the host; its output alone where a step cache kept the network from running.

    `evaluate` runs the whole network; `arguments`: what the host calls it with, by name.
    """
    if isinstance(network, PixelNetwork):
        return _pixel_halves(evaluate, options)
    return _unet_halves(network, evaluate, options, {name: arguments[name] for name in VIDEO if name in arguments})


def _pixel_halves(evaluate: Evaluate, options: Options) -> Halves | Tensor:
    """Our networks: the encoder half once, the decoder half as often as wanted."""
    halves: dict[str, Any] = {}
    plain = evaluate({**options, HALVES: halves})
    return Halves(plain, **halves) if halves else plain


def _unet_halves(network: Any, evaluate: Evaluate, options: Options, video: dict[str, Any]) -> Halves | Tensor:
    """The host's U-Net: its own pass, recorded, and its output blocks again with every other output patch."""
    seen: dict[str, Any] = {"skips": []}
    patches = options.get("patches", {})
    others = list(patches.get("output_block_patch", []))

    def middle(arguments: dict[str, Any]) -> dict[str, Any]:
        seen.update(arguments, index=arguments.get("transformer_options", {}).get("transformer_index", 0))
        seen["h"] = arguments["h"].clone()
        return arguments

    def output(h: Tensor, skip: Tensor, now: Options) -> tuple[Tensor, Tensor]:
        if not seen["skips"] and "emb" not in seen:
            seen["h"] = h.clone()  # an older host: here the bottleneck comes by
        seen["skips"].append(skip.clone())
        seen["options"] = now
        return h, skip

    recording = {
        **patches,
        "middle_block_after_patch": [*patches.get("middle_block_after_patch", []), middle],
        "output_block_patch": [output, *others],
    }
    plain = evaluate({**options, "patches": recording})
    if "h" not in seen:
        return plain
    if "emb" not in seen:
        h = seen["h"]
        return Halves(plain, h, h.new_zeros(len(h), 1), lambda h: _second_pass(evaluate, options, others, h))
    return Halves(plain, seen["h"], seen["emb"], lambda h: _output_half(network, h, seen, others, video))


def _output_half(network: Any, h: Tensor, seen: dict[str, Any], others: Sequence[Any], video: dict[str, Any]) -> Tensor:
    """The output blocks as `UNetModel._forward` runs them, on recorded skips."""
    options = {**seen["options"], "transformer_index": seen["index"]}
    skips, dtype = seen["skips"], seen["x"].dtype
    h = h.to(seen["h"])
    for number, module in enumerate(network.output_blocks):
        options["block"] = ("output", number)
        skip = skips[number].clone()
        for patch in others:
            h, skip = patch(h, skip, options)
        if skip is not None:
            h = torch.cat([h, skip], dim=1)
        shape = skips[number + 1].shape if number + 1 < len(skips) else None
        h = forward_timestep_embed(module, h, seen["emb"], seen["context"], options, shape, **video)
    return network.out(h.type(dtype))


def _second_pass(evaluate: Evaluate, options: Options, others: Sequence[Any], edited: Tensor) -> Tensor:
    """Hosts before 0.24 hand over neither embedding nor middle: everything is evaluated again with h replaced."""
    done: list[bool] = []

    def output(h: Tensor, skip: Tensor, now: Options) -> tuple[Tensor, Tensor]:
        if not done:
            done.append(True)
            h = edited.to(h)
        return h, skip

    patches = {**options.get("patches", {}), "output_block_patch": [output, *others]}
    return evaluate({**options, "patches": patches})
