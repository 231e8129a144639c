"""How guides get pixels of each latent format: the host's tiny decoder by its name, else the VAE."""

from types import SimpleNamespace

from .table import FAMILIES, known

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


BY_HAND = {"LTXAV": "`taeltx_2.safetensors` by Load VAE at `tiny_vae`"}  # that the host's format doesn't name


def formats():
    """{latent format of the host: names of the models that have it}."""
    import comfy.supported_models

    found = {}
    for name in known():
        kind = getattr(comfy.supported_models, name).latent_format
        found.setdefault(kind, []).append(FAMILIES[name].names)
    return found


def decoder_table():
    lines = [
        "| latents of | channels | pixels of one | tiny decoder | Palette Guide |",
        "| --- | --- | --- | --- | --- |",
    ]
    return "\n".join([*lines, *(row(kind, names) for kind, names in formats().items()), ""])


def row(kind, names):
    from pack.nodes.host.model import latent_channels

    made = kind()
    ratio, name = made.spacial_downscale_ratio, made.taesd_decoder_name
    channels = latent_channels(SimpleNamespace(model=SimpleNamespace(latent_format=made)))
    tiny = f"[`{name}.safetensors`]({FILES[name]})" if name else BY_HAND.get(kind.__name__, "none: connect the VAE")
    palette = "works" if made.latent_rgb_factors is not None else "refused: no linear map to colours"
    shown = "none needed" if ratio == 1 else tiny
    return f"| {', '.join(names)} | {channels} | {ratio} x {ratio} | {shown} | {palette} |"
