"""Small random files that the host's own loaders take for Flux.2 and Wan 2.2, and the VAEs of such models.

The host reads a family's numbers off the shapes in its file, and off what Wan's says of itself. Other families it knows
by their full width alone: Z-Image (dim 3840), SDXL. Those have stand-ins, and so have their text encoders.
"""

import json

import torch
from families.build import fill
from families.configs import FLUX2, WAN
from hosts import reads_the_width_of_a_vae
from safetensors.torch import save_file

KLEIN = FLUX2 | {"hidden_size": 128, "num_heads": 1, "axes_dim": [32] * 4, "mlp_ratio": 3.0, "guidance_embed": False}
WAN_5B = WAN | {"in_dim": 48, "out_dim": 48}
TOLD = ("num_heads", "freq_dim", "text_dim", "text_len")  # of Wan's numbers, which no shape tells
LEVELS = {"ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "out_ch": 3, "in_channels": 3}
TOWERS = {"stable_diffusion": "SmallCLIP", "pixart": "SmallT5"}  # by the type of Load CLIP: `stand_ins`
TOWERS |= dict.fromkeys(("lumina2", "flux2", "wan"), "SmallCLIP")  # as wide as the texts of the small models
MODELS = {"z_image_turbo_bf16.safetensors": "SmallZImage"}  # whose loader takes files of full width alone


def write(folder):
    """Into the folders of diffusion models and VAEs below `folder`."""
    import comfy.ops
    from comfy.ldm.flux.model import Flux
    from comfy.ldm.wan.model import WanModel
    from comfy.taesd.taehv import TAEHV

    given = {"operations": comfy.ops.disable_weight_init, "dtype": torch.float32, "device": "cpu"}
    put(folder / "diffusion_models" / "random_flux2.safetensors", Flux(image_model="flux2", **KLEIN, **given))
    told = {"config": json.dumps({"transformer": {name: WAN_5B[name] for name in TOLD}})}
    put(
        folder / "diffusion_models" / "random_wan22.safetensors",
        WanModel(image_model="wan2.1", **WAN_5B, **given),
        told,
    )
    put(folder / "vae" / "random_ae.safetensors", decoder(16))
    normalised = {"bn.running_mean": torch.zeros(128), "bn.running_var": torch.ones(128)}
    quantised = {"post_quant_conv.weight": torch.eye(32)[..., None, None], "post_quant_conv.bias": torch.zeros(32)}
    put(folder / "vae" / "random_flux2_vae.safetensors", decoder(32), more=normalised | quantised)
    put(folder / "vae_approx" / "lighttaew2_2.safetensors", TAEHV(latent_channels=48))


def decoder(channels):
    """The decoder half of a VAE; workflows that encode nothing do without the other."""
    from comfy.ldm.modules.diffusionmodules.model import Decoder

    width = 32 if reads_the_width_of_a_vae() else 128
    return torch.nn.ModuleDict({"decoder": Decoder(**LEVELS, ch=width, resolution=256, z_channels=channels)})


def put(path, network, told=None, more=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        fill(network)
    save_file({key: value.contiguous() for key, value in network.state_dict().items()} | (more or {}), path, told)


def on_small_towers(prompt):
    """A workflow whose texts and pictures the host's own towers read, and its model where no small file can be."""
    replaced = dict(prompt)
    for key, node in prompt.items():
        if node["class_type"] == "UNETLoader" and node["inputs"]["unet_name"] in MODELS:
            replaced[key] = {"class_type": MODELS[node["inputs"]["unet_name"]], "inputs": {}}
        elif node["class_type"] == "CLIPLoader":
            replaced[key] = {"class_type": TOWERS[node["inputs"]["type"]], "inputs": {}}
        elif node["class_type"] == "CLIPVisionLoader":
            replaced[key] = {"class_type": "SmallCLIPVision", "inputs": {}}
    return replaced
