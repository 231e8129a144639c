"""Diffusion Guidance: nodes that steer a diffusion model by gradients, references and semantic dials."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    from .nodes import GuidanceExtension

    return GuidanceExtension()
