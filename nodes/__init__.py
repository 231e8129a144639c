"""The nodes of the pack, for ComfyUI's V3 API."""

from comfy_api.latest import ComfyExtension, io

from . import (
    apply_guides,
    cfg,
    convert,
    diversity,
    edit,
    guides,
    hspace,
    hspace_discovery,
    hspace_pictures,
    hspace_training,
    judging,
    loaders,
    matching,
    pictures,
    pixels,
    sampling,
    scale_sheet,
    scoring,
    semantic,
    semantic_loaders,
    text_conditioning,
    unclip,
)
from .host.files import register_folders


class GuidanceExtension(ComfyExtension):
    async def on_load(self) -> None:
        register_folders()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            *loaders.NODES,
            *convert.NODES,
            *guides.NODES,
            *scoring.NODES,
            *diversity.NODES,
            *apply_guides.NODES,
            *cfg.NODES,
            *edit.NODES,
            *sampling.NODES,
            *semantic_loaders.NODES,
            *semantic.NODES,
            *hspace.NODES,
            *hspace_discovery.NODES,
            *hspace_pictures.NODES,
            *hspace_training.NODES,
            *pixels.NODES,
            *pictures.NODES,
            *scale_sheet.NODES,
            *judging.NODES,
            *matching.NODES,
            *text_conditioning.NODES,
            *unclip.NODES,
        ]
