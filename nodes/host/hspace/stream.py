"""A transformer cut behind one of its blocks: its residual stream as h, and what the rest of the network makes of it.

The tokens of a picture are a map [B C h w]; those of a video are a map for each frame, one behind the other. Texts and
references, which go through the blocks beside them, are left as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..errors import noticed
from ..model import BLOCK
from .halves import Evaluate, Halves, Options, casting

PATCHES = (1, 2, 4, 8, 16, 32)  # sides of a token in elements of the sample, where the network doesn't say
LATENT = 4  # axes of one, at least
Change = Callable[[Tensor, bool], Tensor]  # tokens [B N C], and whether a function stands for the block -> tokens


def stream_halves(
    network: Any, block: int, evaluate: Evaluate, options: Options, x: Tensor, arguments: Iterable[Any]
) -> Halves | Tensor:
    """One evaluation, cut behind a block; its output alone where nothing came by.

    `arguments`: what else the host calls the network with. Raises ValueError where it can't be told which tokens are
    the picture's.
    """
    seen: list[tuple[Tensor, bool]] = []

    def keep(tokens: Tensor, replaced: bool) -> Tensor:
        seen.append((tokens.clone(), replaced))  # residuals may be added in place
        return tokens

    plain = evaluate(_with(options, block, keep))
    if not seen:
        return plain
    tokens, replaced = seen[0]
    references = any(map(_is_references, arguments))
    grid = grid_of(network, x.shape, tokens.shape, references, references and replaced)
    h = to_maps(tokens, grid)

    def decode(edited: Tensor) -> Tensor:
        changed = torch.cat([to_tokens(edited, grid), tokens[:, math.prod(grid) :].to(edited)], dim=1)
        there = _with(options, block, lambda old, _: changed.to(old))
        if edited.dtype == plain.dtype or edited.dtype != torch.float32:
            if edited.dtype != tokens.dtype:
                _say_that_it_rounds(type(network).__name__)
            return evaluate(there)
        with casting(network):
            return evaluate(there, x.float())

    return Halves(plain, h, h.new_zeros(len(h), 1), decode, most=1, frames=grid[0])


@cache
def _say_that_it_rounds(name: str) -> None:
    noticed(
        f"HSpace Edit: {name} calls no wrapper of its own, so its edit stays in half precision, and a small asymmetric "
        "edit is lost in rounding; --force-fp32 is exact, or set asymmetric to false"
    )


def _with(options: Options, block: int, change: Change) -> Options:
    """transformer_options with which `change` says what the picture's tokens are behind a block.

    The host's transformers let a function stand for a block, or call functions behind it; some do both, and then the
    first one counts.
    """
    done: list[bool] = []
    blocks = options.get("patches_replace", {}).get("dit", {})
    before = blocks.get((BLOCK, block))

    def instead(given: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
        out = more["original_block"](given) if before is None else before(given, more)
        if "img" not in out:
            return out
        done.append(True)
        return {**out, "img": change(out["img"], True)}

    def behind(given: dict[str, Any]) -> dict[str, Any]:
        out = {key: given[key] for key in ("img", "txt") if key in given}
        if given.get("block_index") == block and not done:
            out["img"] = change(out["img"], False)
        return out

    patches, replaced = options.get("patches", {}), options.get("patches_replace", {})
    return {
        **options,
        "patches": {**patches, BLOCK: [behind, *patches.get(BLOCK, [])]},
        "patches_replace": {**replaced, "dit": {**blocks, (BLOCK, block): instead}},
    }


def _is_references(part: Any) -> bool:
    """Whether an argument is a list of latents: the references of an edit model, whose tokens come behind."""
    return isinstance(part, list) and any(isinstance(one, Tensor) and one.ndim >= LATENT for one in part)


def grid_of(
    network: Any, sample: torch.Size, tokens: torch.Size, references: bool, behind: bool
) -> tuple[int, int, int]:
    """(frames, rows, columns) of the tokens [B N C] of a sample [B C (T) H W].

    `references`: others may be among them; `behind`: they stand behind those of the sample. Raises ValueError where
    they can't be told.
    """
    name = type(network).__name__
    if len(sample) not in (4, 5) or len(tokens) != 3:
        raise ValueError(
            f"HSpace Edit: {name} packs its samples, and which of its tokens are the picture's isn't known"
        )
    sizes = (1, *sample[2:]) if len(sample) == 4 else tuple(sample[2:])
    own = getattr(network, "patch_size", None)
    if own is not None:
        grid = _grid(sizes, _sides(own))
        more = tokens[1] - math.prod(grid)
        if 0 <= more < (getattr(network, "pad_tokens_multiple", None) or 1) or (behind and more > 0):
            return grid
    for side in () if references else PATCHES:  # Lens says 2, and its latents are folded already
        grid = _grid(sizes, (1, side, side))
        if math.prod(grid) == tokens[1]:
            return grid
    raise ValueError(
        f"HSpace Edit: {name} has {tokens[1]} tokens for a sample of {list(sample[2:])}, and which of them are the "
        "picture's isn't known; leave out what adds tokens, such as references"
    )


def _grid(sizes: Sequence[int], patch: Sequence[int]) -> tuple[int, int, int]:
    frames, rows, columns = (-(-size // side) for size, side in zip(sizes, patch, strict=True))
    return frames, rows, columns


def _sides(patch: Any) -> tuple[int, int, int]:
    """Of a token: frames, rows and columns."""
    sides = [patch] * 2 if isinstance(patch, int) else list(patch)
    frames, rows, columns = [1] * (3 - len(sides)) + sides
    return frames, rows, columns


def to_maps(tokens: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """[B N C] -> [B frames, C rows columns], frame by frame; what stands behind the grid is left out."""
    own = tokens[:, : math.prod(grid)].unflatten(1, grid)
    return own.permute(0, 1, 4, 2, 3).flatten(0, 1)


def to_tokens(maps: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """The inverse of `to_maps`."""
    return maps.unflatten(0, (-1, grid[0])).permute(0, 1, 3, 4, 2).flatten(1, 3)
