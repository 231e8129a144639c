"""A U-Net as two halves, on our networks and on the host's own without changing their code: to h, and on from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import forward_timestep_embed
from torch import Tensor, nn

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
    decode: Callable[[Tensor], Tensor]  # another h -> output, in the precision of that h

    @cached_property
    def exactly_plain(self) -> Tensor:
        """The output in float32; in half precision the decoder half runs again for it."""
        return self.plain if self.h.dtype == torch.float32 else self.decode(self.h.float())

    def difference(self, h: Tensor) -> Tensor:
        """How another h [B C h w] in float32 changes the output.

        Of half-precision outputs mostly rounding would remain, which an asymmetric step enlarges.
        """
        return self.decode(h).float() - self.exactly_plain


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
    """The output blocks as `UNetModel._forward` runs them, on recorded skips, in the precision of h."""
    options = {**seen["options"], "transformer_index": seen["index"]}
    exact = h.dtype == torch.float32 and seen["h"].dtype != h.dtype
    dtype = h.dtype if exact else seen["x"].dtype
    h = h.to(seen["h"].device, dtype if exact else seen["h"].dtype)
    skips = seen["skips"]
    emb, context = (_of_type(part, dtype) if exact else part for part in (seen["emb"], seen["context"]))
    with _casting(network.output_blocks, network.out) if exact else nullcontext():
        for number, module in enumerate(network.output_blocks):
            options["block"] = ("output", number)
            skip = _of_type(skips[number].clone(), h.dtype)
            for patch in others:
                h, skip = patch(h, skip, options)
            if skip is not None:
                h = torch.cat([h, skip], dim=1)
            shape = skips[number + 1].shape if number + 1 < len(skips) else None
            h = forward_timestep_embed(module, h, emb, context, options, shape, **video)
        return network.out(h.type(dtype))


def _of_type(part: Any, dtype: torch.dtype) -> Any:
    return part.to(dtype) if isinstance(part, Tensor) else part


@contextmanager
def _casting(*modules: nn.Module) -> Iterator[None]:
    """The host's layers take weights in the precision of their input, as they do where weights stay on the CPU."""
    name = "comfy_cast_weights"
    layers = [layer for module in modules for layer in module.modules() if getattr(layer, name, None) is False]
    for layer in layers:
        setattr(layer, name, True)
    try:
        yield
    finally:
        for layer in layers:
            setattr(layer, name, False)


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
