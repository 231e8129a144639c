"""The host's own CLIP_VISION and CLIP as an encoder."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from torch import Tensor

from ....models.architecture import Facts
from ....models.encoder import DIFFERENCE, EMBEDDING, SELF_SIMILARITY, STYLE, ImageEncoder, NoTextsError
from ..gradients import differentiable
from .encoder import Encoder, ReadText

RANK_TOLERANCE = 1e-6  # smallest singular value over the largest


class _Enough(Exception):  # noqa: N818  it is no error
    """Ends a forward pass behind the last layer that was asked for."""


class VisionNetwork(ImageEncoder):
    """An `ImageEncoder` around the host's CLIP_VISION: CLIP, SigLIP or DINOv2."""

    def __init__(self, clip_vision: Any):
        self.vision = clip_vision
        model = clip_vision.model
        inner = getattr(model, "vision_model", model).encoder
        self.blocks = inner.layers if hasattr(inner, "layers") else inner.layer
        with torch.inference_mode(False):
            self.mean, self.std = (
                torch.tensor(list(values))[:, None, None] for values in (clip_vision.image_mean, clip_vision.image_std)
            )

    @property
    def layers(self) -> Sequence[str]:
        return [f"block {index + 1}" for index in range(len(self.blocks))]

    @property
    def usual_layers(self) -> Mapping[str, Sequence[str]]:
        depth = len(self.blocks)
        half = [f"block {(depth + 1) // 2}"]
        return {STYLE: self.layers[: min(3, depth)], DIFFERENCE: half, SELF_SIMILARITY: [f"block {depth}"]}

    def encode(self, x: Tensor, t: Tensor, names: Collection[str]) -> Mapping[str, Tensor]:
        places = {int(name.split()[1]) - 1: name for name in names if name != EMBEDDING}
        last = -1 if EMBEDDING in names else max(places)
        found: dict[str, Tensor] = {}

        def keep(place: int) -> Any:
            def hook(module: Any, inputs: Any, output: Any) -> None:
                # the host's next block adds to this very tensor
                found[places[place]] = _map(output[0] if isinstance(output, tuple) else output).float().clone()
                if place == last:
                    raise _Enough

            return hook

        hooks = [self.blocks[place].register_forward_hook(keep(place)) for place in places]
        try:
            found[EMBEDDING] = self._run(x)[2].float()
        except _Enough:
            pass
        finally:
            for hook in hooks:
                hook.remove()
        return found

    def embed_text(self, text: str) -> Tensor:
        raise NoTextsError("this encoder has no text tower; connect clip of the same CLIP to Encoder from CLIP Vision")

    def _run(self, x: Tensor) -> Any:
        pictures = ((x + 1) / 2 - self.mean.to(x)) / self.std.to(x)
        with differentiable(self.vision.model):
            return self.vision.model(pixel_values=pictures, intermediate_output=-2)


def _map(tokens: Tensor) -> Tensor:
    """[B N C], class and register tokens first -> [B C h w] of the patches."""
    side = int(tokens.shape[1] ** 0.5)
    return tokens[:, tokens.shape[1] - side**2 :].transpose(1, 2).unflatten(2, (side, side))


def text_tower(clip: Any, width: int, needs: str) -> tuple[str, Any]:
    """The tower of the host's CLIP whose embedding is `width` wide, and the name of its tokens.

    Raises ValueError where there is none, or one without a projection. `needs` begins what is said then.
    """
    towers = {
        name.split(".")[-1].removeprefix("clip_"): part
        for name, part in clip.cond_stage_model.named_modules()
        if isinstance(getattr(getattr(part, "transformer", None), "text_projection", None), torch.nn.Module)
    }
    widths = {key: tower.transformer.text_projection.weight.shape[0] for key, tower in towers.items()}
    fitting = [key for key, found in widths.items() if found == width]
    if not fitting:
        there = ", ".join(str(found) for found in widths.values()) or "none"
        raise ValueError(
            f"{needs} {width} numbers, the text towers of this CLIP have {there}; use the CLIP of the same model"
        )
    key, tower = fitting[0], towers[fitting[0]]
    fault = projection_fault(clip, tower.transformer.text_projection.weight)
    if fault:
        raise ValueError(
            f"this CLIP has no text projection ({fault}), as those inside SD1.5 checkpoints; load a full CLIP text "
            "file (for instance clip_l.safetensors) with Load CLIP"
        )
    return key, tower


def text_reader(clip: Any, width: int) -> ReadText:
    """Texts in the space of a vision tower `width` wide, by the fitting tower of the host's CLIP.

    Raises ValueError where the CLIP has no projection into such a space.
    """
    key, tower = text_tower(clip, width, "the vision tower's embedding has")

    def read(text: str) -> Tensor:
        if not text.strip():
            raise ValueError("the text is empty; write what the picture should show")
        tokens = clip.tokenize(text)[key]
        if len(tokens) > 1:
            raise ValueError(f"the text needs {len(tokens)} chunks of tokens, the encoder reads one; shorten it")
        tower.reset_clip_options()
        tower.set_clip_options({"projected_pooled": True, "execution_device": clip.patcher.load_device})
        try:
            return tower.encode_token_weights(tokens)[1].clone()
        finally:
            tower.reset_clip_options()

    return read


def projection_fault(clip: Any, weight: Tensor) -> str:
    """Why a text tower's projection [D D] is none; empty if it is one.

    The host leaves what a checkpoint lacks as the memory was found (or, in older versions, as the identity).
    """
    files = source_files(clip)
    if files and not any(projection_in(file, len(weight)) for file in files):
        return "its file has none"
    weight = weight.detach().cpu().double()
    if not torch.isfinite(weight).all():
        return "it holds values that are not finite"
    if not weight.any():
        return "it is zero"
    if torch.equal(weight, torch.eye(len(weight), dtype=torch.float64)):
        return "it is the identity"
    rank = int(torch.linalg.matrix_rank(weight, rtol=RANK_TOLERANCE))
    return "" if rank == len(weight) else f"its rank is {rank} of {len(weight)}"


def source_files(clip: Any) -> list[Path]:
    """The safetensors files that the host loaded a CLIP from; none where that isn't known."""
    known = getattr(clip.patcher, "cached_patcher_init", None)
    sources = known[1][0] if known and known[1] else []
    sources = [sources] if isinstance(sources, (str, Path)) else sources
    if not isinstance(sources, (list, tuple)) or not all(isinstance(source, (str, Path)) for source in sources):
        return []  # another pack's loader
    paths = [Path(source) for source in sources]
    return paths if all(path.suffix == ".safetensors" and path.is_file() for path in paths) else []


def projection_in(file: Path, width: int) -> bool:
    with safe_open(file, "pt") as content:
        names = [name for name in content.keys() if name.endswith(("text_projection", "text_projection.weight"))]
        return any(content.get_slice(name).get_shape() == [width, width] for name in names)


def encoder_from(clip_vision: Any, clip: Any | None) -> Encoder:
    """Raises ValueError where the text tower doesn't belong to the vision tower."""
    network = VisionNetwork(clip_vision)
    size = clip_vision.image_size
    read: ReadText = network.embed_text
    text_patchers: list[Any] = []
    if clip is not None:
        projection = getattr(clip_vision.model, "visual_projection", None)
        if not isinstance(projection, torch.nn.Module):
            raise ValueError(
                "this CLIP_VISION has no projection into a space shared with texts; use a CLIP, not SigLIP or DINO"
            )
        read = text_reader(clip, cast(torch.Tensor, projection.weight).shape[0])
        text_patchers = [clip.patcher]
    return Encoder("CLIP Vision", Facts(image_size=size), network, [clip_vision.patcher], read, text_patchers)
