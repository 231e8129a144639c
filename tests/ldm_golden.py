"""The networks of the golden file of latent diffusion, with the weights of its rule, as one checkpoint."""

from pathlib import Path

import golden_files
import torch

from pack.models.adm.network import UNet
from pack.models.ldm.network import ClassConfig, ClassUNet, LatentConfig

CASE = "ldm_class_conditional"


class Named(torch.nn.Module):
    """A network under a prefix, so that the rule's salt meets the keys of the checkpoint."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


def config(arguments):
    unet = arguments["unet"]
    return ClassConfig(
        model_channels=unet["model_channels"],
        out_channels=unet["out_channels"],
        num_res_blocks=unet["num_res_blocks"],
        channel_mult=tuple(unet["channel_mult"]),
        attention=tuple(sorted(unet["attention_resolutions"])),
        num_heads=unet["num_heads"],
        text_width=unet["context_dim"],
        labels=arguments["classes"],
        scale_shift_norm=False,
        resblock_updown=False,
    )


def checkpoint():
    """The state dict as published."""
    arguments, _ = golden_files.load(CASE)
    unet = ClassUNet(config(arguments))
    table = unet.cond_stage_model
    del unet.cond_stage_model
    whole = Named(model=Named(diffusion_model=unet), cond_stage_model=table)
    return dict(golden_files.fill(whole, arguments["salt"]).state_dict())


def unconditional():
    """The same of a model without classes: ADM's U-Net, 32 channels a head."""
    shape = {"model_channels": 32, "in_channels": 3, "out_channels": 3, "num_res_blocks": 1, "channel_mult": (1, 2)}
    shape |= {"attention": (2,), "head_channels": 32, "scale_shift_norm": False, "resblock_updown": False}
    whole = Named(model=Named(diffusion_model=UNet(LatentConfig(**shape))))
    return dict(golden_files.fill(whole, "unconditional.").state_dict())


def first_stage():
    """The VQ autoencoder's state dict, with the checkpoint's prefix; needs the host."""
    from pack.nodes.host.latent.first_stage import VQ, Shape

    arguments, _ = golden_files.load(CASE)
    stage = arguments["vq"]
    sizes = stage["ddconfig"]
    shape = Shape(sizes["ch"], tuple(sizes["ch_mult"]), sizes["num_res_blocks"], sizes["z_channels"], stage["n_embed"])
    filled = golden_files.fill(Named(first_stage_model=VQ(shape)), arguments["salt"])
    return dict(filled.state_dict())


def stored(name, network=checkpoint):
    """Puts the checkpoint into the folder of the loader; returns its name."""
    import folder_paths

    folder = Path(folder_paths.get_folder_paths("guidance_models")[0])
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": network() | first_stage()}, folder / name)
    folder_paths.filename_list_cache.clear()
    return name
