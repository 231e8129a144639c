"""Samplers one after the other."""

import torch
from networks import pictures

from .scene import SCALE, SIDE


def ksampler(scene, model, start=0, end=4, latent=None, negative="n"):
    """KSampler (Advanced), one stage of four steps."""
    import nodes

    latent = torch.zeros(1, 3, SIDE, SIDE) if latent is None else latent
    first, last = latent_noise(start, latent), end == 4
    with torch.inference_mode():
        return nodes.KSamplerAdvanced().sample(
            model, first, 5, 4, SCALE, "euler", "normal", scene.labels["p"], scene.labels[negative],
            {"samples": latent}, start, end, "disable" if last else "enable",
        )[0]["samples"]  # fmt: skip


def latent_noise(start, latent):
    return "enable" if start == 0 or not latent.any() else "disable"


def whole(scene, model):
    return ksampler(scene, model)


def two_stages(scene, model):
    return ksampler(scene, model, 2, 4, ksampler(scene, model, 0, 2))


def custom(scene, model, latent, sigmas, sampler, noise):
    """SamplerCustom, of one seed with and without fresh noise."""
    from comfy_extras.nodes_custom_sampler import SamplerCustom

    given = (model, noise, 5, SCALE, scene.labels["p"], scene.labels["n"], sampler, sigmas, {"samples": latent})
    with torch.inference_mode():
        return SamplerCustom.execute(*given).args[0]["samples"]


def split(scene, model, sampler=None, parts=2):
    """SplitSigmas in the middle of four steps; one part: not split."""
    import comfy.samplers
    from comfy_extras.nodes_custom_sampler import SplitSigmas

    sampler = sampler or comfy.samplers.sampler_object("euler")
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", 4)
    empty = torch.zeros(1, 3, SIDE, SIDE)
    if parts == 1:
        return custom(scene, model, empty, sigmas, sampler, noise=True)
    high, low = SplitSigmas.execute(sigmas, 2).args
    return custom(scene, model, custom(scene, model, empty, high, sampler, noise=True), low, sampler, noise=False)


def picture():
    return pictures(seed=9).movedim(-1, 1) * 2 - 1


def denoised_half(scene, model):
    """KSampler, two steps at denoise .5, on a picture."""
    import nodes

    with torch.inference_mode():
        latent = {"samples": picture()}
        return nodes.KSampler().sample(
            model, 5, 2, SCALE, "euler", "normal", scene.labels["p"], scene.labels["n"], latent, denoise=0.5
        )[0]["samples"]


def last_half(scene, model):
    """The last two of four steps, on a picture."""
    import nodes

    with torch.inference_mode():
        return nodes.KSamplerAdvanced().sample(
            model, "enable", 5, 4, SCALE, "euler", "normal", scene.labels["p"], scene.labels["n"],
            {"samples": picture()}, 2, 4, "disable",
        )[0]["samples"]  # fmt: skip


CHAINS = {
    "KSampler (Advanced), two stages": (two_stages, whole),
    "SplitSigmas": (split, whole),
    "denoise below 1": (denoised_half, last_half),
}
