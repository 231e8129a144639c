"""The networks of the golden file of GLIDE, with the weights of its rule."""

import json
from pathlib import Path

import golden_files
import torch
from safetensors.torch import save_file
from torch.nn.functional import interpolate

from pack.models.glide.network import GlideConfig, GlideUNet

CASE = "glide_16px"
INPUTS = {"base.": 3, "inpaint.": 7, "upsample.": 6}


def config(arguments, channels):
    return GlideConfig(
        model_channels=arguments["model_channels"],
        out_channels=6,
        in_channels=channels,
        num_res_blocks=arguments["num_res_blocks"],
        channel_mult=tuple(arguments["channel_mult"]),
        attention=tuple(arguments["attention_ds"]),
        head_channels=arguments["num_head_channels"],
        text_width=arguments["xf_width"],
        text_layers=arguments["xf_layers"],
        text_heads=arguments["xf_heads"],
        context=arguments["text_ctx"],
    )


def unet(part, arguments):
    """The network whose keys are salted with `part`, one of INPUTS."""
    return golden_files.fill(GlideUNet(config(arguments, INPUTS[part])), arguments["salt"] + part)


def tokens(golden):
    """As the network takes them: -1 behind the end."""
    return torch.where(golden["mask"].bool(), golden["tokens"], -1)


def beside(part, golden):
    """What stands beside x in the input."""
    if part == "inpaint.":
        mask = golden["inpaint.mask"]
        return [golden["inpaint.image"] * mask, mask]
    if part == "upsample.":
        return [interpolate(golden["upsample.low_res"], 16, mode="bilinear", align_corners=False)]
    return []


def stored(part, name):
    """Puts the network into the folder of the loaders, as one of our own files; returns its name."""
    import folder_paths

    arguments, _ = golden_files.load(CASE)
    folder = Path(folder_paths.get_folder_paths("guidance_models")[0])
    folder.mkdir(parents=True, exist_ok=True)
    network = unet(part, arguments)
    metadata = {"architecture": "glide", "config": json.dumps(vars(network.config)), "schedule": "cosine"}
    save_file(network.state_dict(), folder / name, {**metadata, "image_size": "16"})
    folder_paths.filename_list_cache.clear()
    return name
