"""Small files in the layouts of Karlo, IF and latent diffusion, for workflows whose models are not at hand."""

import json

import golden_files
import ldm_golden
import torch
from safetensors.torch import save_file

from pack.models.imagen.network import ImagenConfig, ImagenUNet
from pack.models.karlo.network import KarloConfig, KarloDecoder, KarloUpsampler, KarloUpsamplerConfig
from pack.models.prior.network import KarloPrior, PriorConfig


def put(folder, name, network, family, **more):
    """A network of one of our families in a folder of the server."""
    folder.mkdir(parents=True, exist_ok=True)
    state = golden_files.fill(network, f"{family}.").state_dict()
    metadata = {"architecture": family, "config": json.dumps(vars(network.config)), **more}
    save_file(state, folder / name, metadata)


def write(folder):
    """Into the folders of models and priors. For the towers of `stand_ins`: CLIP is 16 wide, T5 48."""
    models, priors = (folder / f"guidance_{kind}" for kind in ("models", "priors"))
    shape = {"model_channels": 16, "num_res_blocks": 1, "channel_mult": (1, 2), "num_heads": 2, "groups": 4}
    reads = {**shape, "out_channels": 6, "attention": (2,), "text_width": 16}
    alone = {**shape, "out_channels": 3, "in_channels": 6, "attention": (), "middle_attention": False}
    decoder = KarloDecoder(KarloConfig(**reads, clip_width=16))
    put(models, "random_karlo_decoder.safetensors", decoder, "karlo_decoder", image_size="32")
    upsampler = KarloUpsampler(KarloUpsamplerConfig(**alone, scale_shift_norm=False))
    put(models, "random_karlo_upsampler.safetensors", upsampler, "karlo_upsampler", image_size="64")
    if_reads = {**reads, "activation": "gelu", "text_norm": True, "t5_width": 48, "pool_heads": 4}
    one, two = ImagenConfig(**if_reads), ImagenConfig(**if_reads, in_channels=6, augments=True)
    put(models, "random_imagen_one.safetensors", ImagenUNet(one), "imagen", image_size="32")
    put(models, "random_imagen_two.safetensors", ImagenUNet(two), "imagen", image_size="64")
    put(priors, "random_karlo_prior.safetensors", KarloPrior(PriorConfig(32, 1, 2, 16)), "karlo_prior")
    statistics = {"clip_mean": golden_files.draw((16,), 6), "clip_std": 1 + golden_files.draw((16,), 7).abs()}
    save_file(statistics, priors / "random_stats.safetensors")
    torch.save({"state_dict": ldm_golden.checkpoint() | ldm_golden.first_stage()}, models / "random_ldm.ckpt")
