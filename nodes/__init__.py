"""The nodes of the pack, for ComfyUI's V3 API."""

from comfy_api.latest import ComfyExtension, io

from . import (
    cfg,
    guides,
    hspace,
    hspace_images,
    hspace_training,
    loaders,
    pictures,
    pixels,
    samplers,
    sampling,
    semantic,
    semantic_loaders,
    steering,
)
from .host.folders import register_folders


class GuidanceExtension(ComfyExtension):
    async def on_load(self) -> None:
        register_folders()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            *loaders.NODES,
            *guides.NODES,
            *steering.NODES,
            *cfg.NODES,
            *sampling.NODES,
            *semantic_loaders.NODES,
            *semantic.NODES,
            *hspace.NODES,
            *hspace_images.NODES,
            *hspace_training.NODES,
            *samplers.NODES,
            *pixels.NODES,
            *pictures.NODES,
        ]
