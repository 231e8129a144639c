"""What a network's batch is made of: whose predictions, of which pictures, and what part of the latent they see.

The host joins conditionings and crops areas before the network sees anything. Its uuids say whose rows are whose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

ROWS = "guidance_rows"  # of transformer_options: what the guider asked the host for
NEGATIVES = ("negative", "empty_negative_prompt")  # a guider's names for conditionings that count as uncond
RANDOM = "random for "  # so begins CFG Combiner's name for a condition that says nothing, uncond too
WITHOUT = "without the reference: "  # so begins Reference Dial's name for what a conditioning says without it
UNKNOWN = (-1.0, -1.0, -1.0, -1.0)

Area = tuple[float, float, float, float]  # top, left, height, width in shares of the latent
Conds = Mapping[str, Sequence[Mapping[str, Any]]]  # a guider's conditionings by name


@dataclass(frozen=True)
class View:
    """What one prediction of a batch sees of the latent."""

    pictures: Sequence[int]  # which of its pictures, one a row
    total: int  # how many pictures it has
    area: Area | None = None  # None: all of it

    def repeated(self, frames: int) -> View:
        """Of a video, a row for each frame."""
        return replace(self, pictures=[picture for picture in self.pictures for _ in range(frames)])


@dataclass(frozen=True)
class Asked:
    """One call of the host's calc_cond_batch."""

    names: Sequence[str | None]  # of its lists of conditionings
    areas: Mapping[Any, Area]  # of conditionings that have one, by uuid
    size: tuple[int, ...]  # of the sample that it was called with


def asked(known: Conds, conds: Sequence[Any], x: Tensor) -> Asked:
    """What a guider that has the conditionings `known` wants of `conds` at x [B C ...]."""
    size = tuple(x.shape[-2:])
    areas = {cond.get("uuid"): _shares(cond["area"], size) for part in conds for cond in part or () if cond.get("area")}
    return Asked([_name(known, part) for part in conds], areas, size)


def _shares(area: Sequence[int], size: tuple[int, ...]) -> Area:
    """The host's (height, width, top, left) in elements, cut off at the border as it does."""
    half = len(area) // 2
    (height, width), (top, left) = area[half - 2 : half], area[-2:]
    height, width = min(size[0] - top, height), min(size[1] - left, width)
    return top / size[0], left / size[1], height / size[0], width / size[1]


def _name(known: Conds, cond: Any) -> str | None:
    """By identity; copies (context windows, second models) keep their uuids."""
    if cond is None:
        return None
    uuids = {one.get("uuid") for one in cond}
    same = [name for name, part in known.items() if part is cond]
    found = same or [name for name, part in known.items() if uuids <= {one.get("uuid") for one in part}]
    return found[0] if len(found) == 1 else None


def names_of(options: Mapping[str, Any], known: Conds) -> list[str | None]:
    """The guider's name for each part of a batch; None: it can't be told."""
    rows = options.get("cond_or_uncond", [0])
    wanted: Asked | None = options.get(ROWS)
    names: list[str | None] = []
    for row, uuid in zip(rows, options.get("uuids") or [None] * len(rows), strict=True):
        owners = [name for name, part in known.items() if uuid and any(one.get("uuid") == uuid for one in part)]
        listed = wanted.names[row] if wanted is not None and row < len(wanted.names) else None
        names.append(owners[0] if len(owners) == 1 else listed)
    return names


def is_uncond(name: str) -> bool:
    name = name.removeprefix(WITHOUT)
    return name in NEGATIVES or name.startswith(RANDOM)


def views_of(options: Mapping[str, Any], x: Tensor) -> list[View]:
    """Of each part of the batch x [B C h w]."""
    rows = options.get("cond_or_uncond", [0])
    wanted: Asked | None = options.get(ROWS)
    batch = max(1, len(x) // len(rows))
    window = options.get("context_window")
    pictures, total = _frames(window, batch)
    cut = window is not None and window.dim >= x.ndim - 2  # a window of the picture itself, not of a video's frames
    areas: list[Area | None] = [None] * len(rows)
    if cut:
        areas = [UNKNOWN] * len(rows)
    elif wanted is not None and tuple(x.shape[-2:]) != wanted.size:
        areas = [wanted.areas.get(uuid, UNKNOWN) for uuid in options.get("uuids") or [None] * len(rows)]
    return [View(pictures, total, area) for area in areas]


def _frames(window: Any, batch: int) -> tuple[Sequence[int], int]:
    """(which pictures, of how many) a batch is, in a context window of the host's over them."""
    if window is None or window.dim != 0:
        return range(batch), batch
    anchor = getattr(window, "causal_anchor_index", None)  # a frame that goes in front
    frames = [*([anchor] if anchor is not None and anchor >= 0 else []), *window.index_list]
    return (frames, window.total_frames) if len(frames) == batch else (range(batch), batch)


def shown(maps: Tensor, views: Sequence[View], like: Tensor, mode: str = "bilinear") -> Tensor:
    """Maps of whole pictures [n C H W], n 1 or one for each picture, as the rows of `like` [B C h w] see them.

    [1 C h w] where all see the same. Raises ValueError where it isn't known which part of the picture a row sees.
    """
    maps, size = maps.to(like), like.shape[-2:]
    if maps.shape[-2:] == (1, 1):
        views = [View(view.pictures, view.total) for view in views]
    if not views or (len(maps) == 1 and all(view.area is None for view in views)):
        return _resized(maps, size, mode)
    return torch.cat([_seen(maps, view, size, mode) for view in views])


def _seen(maps: Tensor, view: View, size: Sequence[int], mode: str) -> Tensor:
    if view.area == UNKNOWN:
        raise ValueError(
            "h-space: an edit that differs from place to place needs to know which part of the picture the network "
            "sees, and this node's way to cut it up doesn't tell; use an edit without a mask and of one size, or "
            "sample the whole picture at once"
        )
    if len(maps) > 1:
        maps = maps[[picture % len(maps) for picture in view.pictures]]
    if view.area is None:
        return _resized(maps, size, mode).expand(len(view.pictures), -1, -1, -1)
    top, left, height, width = view.area
    full = [max(size[0], round(size[0] / height)), max(size[1], round(size[1] / width))]
    y, x = (min(round(start * side), side - own) for start, side, own in zip((top, left), full, size, strict=True))
    cut = _resized(maps, full, mode)[..., y : y + size[0], x : x + size[1]]
    return cut.expand(len(view.pictures), -1, -1, -1)


def _resized(maps: Tensor, size: Sequence[int], mode: str) -> Tensor:
    if list(maps.shape[-2:]) == list(size):
        return maps
    return interpolate(maps, list(size), mode=mode, align_corners=False if mode == "bilinear" else None)
