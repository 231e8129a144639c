"""How guides get pixels of each latent format: the host's tiny decoder by its name, else the VAE."""

from .table import FAMILIES

FILES = {  # where the host's tiny decoders are published
    "taesd_decoder": "https://github.com/madebyollin/taesd",
    "taesdxl_decoder": "https://github.com/madebyollin/taesd",
    "taesd3_decoder": "https://github.com/madebyollin/taesd",
    "taef1_decoder": "https://github.com/madebyollin/taesd",
    "taef2_decoder": "https://github.com/madebyollin/taesd",
    "taehv": "https://github.com/madebyollin/taehv",
    "lighttaew2_1": "https://huggingface.co/lightx2v/Autoencoders",
    "lighttaew2_2": "https://huggingface.co/lightx2v/Autoencoders",
    "lighttaehy1_5": "https://huggingface.co/lightx2v/Autoencoders",
}


def formats():
    """{latent format of the host: names of the models that have it}."""
    import comfy.supported_models

    found = {}
    for name, family in FAMILIES.items():
        kind = getattr(comfy.supported_models, name).latent_format
        found.setdefault(kind, []).append(family.names)
    return found


def decoder_table():
    lines = [
        "| latents of | channels | pixels of one | tiny decoder | Palette Guide |",
        "| --- | --- | --- | --- | --- |",
    ]
    return "\n".join([*lines, *(row(kind, names) for kind, names in formats().items()), ""])


def row(kind, names):
    made = kind()
    pixels = made.spacial_downscale_ratio == 1
    name = made.taesd_decoder_name
    tiny = f"[`{name}.safetensors`]({FILES[name]})" if name else "none: connect the VAE"
    size = f"{made.spacial_downscale_ratio} x {made.spacial_downscale_ratio}"
    palette = "works" if made.latent_rgb_factors is not None else "refused: no linear map to colours"
    return f"| {', '.join(names)} | {made.latent_channels} | {size} | {'none needed' if pixels else tiny} | {palette} |"
