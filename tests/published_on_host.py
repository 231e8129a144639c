"""A published run inside the host: its guider, its stock sampling, our loops, with injected start and noise."""

import torch


class Injected:
    def __init__(self, noise):
        self.noise, self.seed = noise, 0

    def generate_noise(self, latent):
        return self.noise


def sampled(model, positive, negative, cfg, start, sigmas, noise, loop):
    """SamplerCustomAdvanced from `start`, unit noise, with CFG at 1 without a negative."""
    import comfy.samplers
    from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced

    from pack.nodes.host.sampling import published_sampler

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative or positive)
    guider.set_cfg(cfg)
    sampler = published_sampler(loop, True, noise=noise)
    with torch.inference_mode():
        latent = {"samples": torch.zeros_like(start)}
        return SamplerCustomAdvanced.execute(Injected(start), guider, sampler, sigmas, latent).args[0]["samples"]


def respaced(execute, model, respacing):
    return execute("Guidance_RespacedSigmas", model=model, respacing=str(respacing))[0]
