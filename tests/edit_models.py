"""Edit models of the host at tiny width with random weights, and what their conditioning looks like."""

import torch
from host_unets import patcher, random


def _made(kind, config):
    """MODEL of a class of the host's `model_base`."""
    with torch.inference_mode(False):
        config.set_inference_dtype(torch.float32, None)
        model = kind(config, device=torch.device("cpu"))
        for place, parameter in enumerate(model.diffusion_model.parameters()):
            generator = torch.Generator().manual_seed(place)
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
        model.diffusion_model.requires_grad_(False)
    return patcher(model)


def kontext():
    """Flux with reference latents beside its own, as Kontext."""
    import comfy.model_base
    import comfy.supported_models

    given = {"image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2, "vec_in_dim": 8}
    given |= {"context_in_dim": 16, "hidden_size": 32, "mlp_ratio": 2.0, "num_heads": 2, "depth": 1}
    given |= {"depth_single_blocks": 1, "axes_dim": [4, 6, 6], "theta": 10000, "qkv_bias": True}
    given |= {"guidance_embed": True, "txt_ids_dims": []}
    return _made(comfy.model_base.Flux, comfy.supported_models.Flux(given))


def qwen():
    """Qwen-Image, whose latents have an axis of time, with reference latents, as Qwen-Image-Edit."""
    import comfy.model_base
    import comfy.supported_models

    given = {"image_model": "qwen_image", "in_channels": 64, "out_channels": 16, "num_layers": 1}
    given |= {"attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 16}
    given |= {"axes_dims_rope": (4, 6, 6)}
    return _made(comfy.model_base.QwenImage, comfy.supported_models.QwenImage(given))


def ip2p():
    """InstructPix2Pix: the reference beside the sample, as further channels."""
    import comfy.model_base
    import comfy.supported_models

    given = {"image_size": 32, "in_channels": 8, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1]}
    given |= {"channel_mult": (1, 1), "transformer_depth": [1, 0], "transformer_depth_output": [1, 1, 0, 0]}
    given |= {"transformer_depth_middle": 0, "context_dim": 16, "num_heads": 2, "use_spatial_transformer": True}
    given |= {"legacy": False}
    config = comfy.supported_models.SD15_instructpix2pix(given)
    return _made(comfy.model_base.SD15_instructpix2pix, config)


MODELS = {"kontext": (kontext, (16, 8, 8)), "qwen": (qwen, (16, 1, 8, 8)), "ip2p": (ip2p, (4, 8, 8))}


def told(name, seed, shows=True):
    """CONDITIONING of a model: a text, and a reference as the host's nodes put it there."""
    shape = MODELS[name][1]
    picture = random(1, *shape, seed=9)
    pictures = {"concat_latent_image": picture} if name == "ip2p" else {"reference_latents": [picture]}
    extra = {"pooled_output": random(1, 8, seed=seed)} if name == "kontext" else {}
    return [[random(1, 5, 16, seed=seed), {**extra, **(pictures if shows else {})}]]


def predicted(guider, shape, batch=1, level=0.6):
    """D(x, sigma) as a guider shows it to a sampler."""
    import comfy.samplers

    sampling = guider.model_patcher.get_model_object("model_sampling")
    sigma = torch.tensor(float(sampling.percent_to_sigma(level)))
    x = random(batch, *shape, seed=1)
    found = []

    def look(model, start, sigmas, extra_args, callback, disable):
        found.append(model(x, sigma.expand(len(x)), **extra_args))
        return start

    with torch.inference_mode():
        levels = torch.stack([sigma, torch.zeros(())])
        noise = torch.ones_like(x)
        guider.sample(noise, torch.zeros_like(x), comfy.samplers.KSAMPLER(look), levels, disable_pbar=True, seed=1)
    return found[0]


def cfg_guider(model, positive, negative, cfg):
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    return guider
