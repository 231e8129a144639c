"""A network as two halves, ours and the host's own without changing their code: to h, and on from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import forward_timestep_embed
from torch import Tensor, nn

from ....guidance.tensors import repeated
from ..errors import noticed
from ..pixel_model import HALVES, PixelNetwork

BY_ROW = ("cond_or_uncond", "uuids")  # of transformer_options: what the parts of a batch are
SHARED = ("emb", "context")  # of the middle, which every decoder half takes
VIDEO = ("time_context", "num_video_frames", "image_only_indicator")  # what the host hands to each block of SVD
Options = dict[str, Any]  # transformer_options
Evaluate = Callable[..., Tensor]  # (transformer_options, perhaps another sample) -> the network's output


@dataclass(frozen=True, eq=False)
class Halves:
    """One evaluation of a network, cut where h is."""

    plain: Tensor  # its output
    h: Tensor  # [B C h w]
    emb: Tensor  # [B E]; zeros on hosts that don't hand it out
    decode: Callable[[Tensor], Tensor]  # other h [k B C h w], one behind the other -> outputs, in the precision of h
    most: int | None = None  # k; None: any
    frames: int = 1  # of a video: rows of h for each sample

    def differences(self, others: Sequence[Tensor], fits: Callable[[int], bool]) -> list[Tensor]:
        """How each of other h [B C h w] in float32 changes the output; in one pass where memory `fits` so many rows.

        Of half-precision outputs mostly rounding would remain, which an asymmetric step enlarges: there the plain h
        goes along in float32.
        """
        exact = self.h.dtype == torch.float32
        rows = [*others] if exact else [self.h.float(), *others]
        together = len(rows) > 1 and self.most is None and fits(len(rows) * len(self.h))
        outputs = self.decode(torch.cat(rows)).chunk(len(rows)) if together else [self.decode(h) for h in rows]
        plain, *edited = [self.plain, *outputs] if exact else outputs
        return [output.float() - plain for output in edited]


def halves_of(network: Any, evaluate: Evaluate, options: Options, arguments: dict[str, Any]) -> Halves | Tensor:
    """Of one of our networks or a U-Net of the host; its output alone where a step cache kept the network from running.

    `evaluate` runs the whole network; `arguments`: what the host calls it with, by name.
    """
    if isinstance(network, PixelNetwork):
        return _pixel_halves(evaluate, options)
    return _unet_halves(network, evaluate, options, {name: arguments[name] for name in VIDEO if name in arguments})


def _pixel_halves(evaluate: Evaluate, options: Options) -> Halves | Tensor:
    """Our networks: the encoder half once, the decoder half as often as wanted."""
    seen: dict[str, Any] = {}
    plain = evaluate({**options, HALVES: seen})
    halves = dict(seen)
    seen.clear()  # its `decode` knows it: together they would keep h until garbage is collected
    return Halves(plain, **halves) if halves else plain


def _unet_halves(network: Any, evaluate: Evaluate, options: Options, video: dict[str, Any]) -> Halves | Tensor:
    """The host's U-Net: its own pass, recorded, and its output blocks again with every other output patch."""
    seen: dict[str, Any] = {"skips": []}
    patches = options.get("patches", {})
    others = list(patches.get("output_block_patch", []))

    def kept(part: Tensor) -> Tensor:
        return part.clone() if others else part  # they may write into what they are shown

    def middle(arguments: dict[str, Any]) -> dict[str, Any]:
        seen.update({name: arguments[name] for name in ("x", *SHARED)}, h=kept(arguments["h"]))
        seen["index"] = arguments.get("transformer_options", {}).get("transformer_index", 0)
        return arguments

    def output(h: Tensor, skip: Tensor, now: Options) -> tuple[Tensor, Tensor]:
        if not seen["skips"] and "emb" not in seen:
            seen["h"] = kept(h)  # an older host: here the bottleneck comes by
        seen["skips"].append(kept(skip))
        seen["options"] = {**now, "patches": patches}  # ours know `seen`: a cycle would keep all until it is collected
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
        if h.dtype != torch.float32:
            _say_that_it_rounds()
        return Halves(plain, h, h.new_zeros(len(h), 1), lambda h: _second_pass(evaluate, options, others, h), most=1)
    most = 1 if others or video else None  # which may know how many rows there are
    return Halves(plain, seen["h"], seen["emb"], lambda h: _output_half(network, h, seen, others, video), most)


def _output_half(network: Any, h: Tensor, seen: dict[str, Any], others: Sequence[Any], video: dict[str, Any]) -> Tensor:
    """The output blocks as `UNetModel._forward` runs them, on recorded skips, in the precision of h."""
    options = {**seen["options"], "transformer_index": seen["index"]}
    options |= {name: options[name] * (len(h) // len(seen["h"])) for name in BY_ROW if options.get(name)}
    exact = h.dtype == torch.float32 and seen["h"].dtype != h.dtype
    dtype = h.dtype if exact else seen["x"].dtype
    h = h.to(seen["h"].device, dtype if exact else seen["h"].dtype)
    skips = seen["skips"]
    emb, context = (_shared(part, len(h), dtype if exact else None) for part in map(seen.get, SHARED))
    with casting(network.output_blocks, network.out) if exact else nullcontext():
        for number, module in enumerate(network.output_blocks):
            options["block"] = ("output", number)
            skip = _shared(skips[number].clone() if others else skips[number], len(h), h.dtype)
            for patch in others:
                h, skip = patch(h, skip, options)
            if skip is not None:
                h = torch.cat([h, skip], dim=1)
            shape = skips[number + 1].shape if number + 1 < len(skips) else None
            h = forward_timestep_embed(module, h, emb, context, options, shape, **video)
        return network.out(h.type(dtype))


def _shared(part: Any, rows: int, dtype: torch.dtype | None) -> Any:
    """What all edits of a batch share, once for each, in their precision."""
    return repeated(part.to(dtype or part.dtype), rows) if isinstance(part, Tensor) else part


@contextmanager
def casting(*modules: nn.Module) -> Iterator[None]:
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


@cache
def _say_that_it_rounds() -> None:
    noticed(
        "HSpace Edit: this ComfyUI runs the whole U-Net again for an edit, in half precision, and a small asymmetric "
        "edit is lost in its rounding; ComfyUI 0.24 and later are exact, and so is --force-fp32"
    )


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
