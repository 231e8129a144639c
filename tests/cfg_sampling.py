"""Sampling with CFG Patch and CFG Combiner, in process, on the pack's own models of classes."""

import torch

from bench.costs import METHODS as ON_LATENTS

METHODS = {"constant": {}, "dynamic threshold": {"percentile": 0.995, "limit": 0.0}, **ON_LATENTS}


def class_models(pack_nodes):
    """The shipped U-Net as an eps, a v and a flow model. What v it predicts means nothing, but bits are bits."""
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    node = pack_nodes["Guidance_LoadModel"]

    def load(name):
        entries = node.GET_SCHEMA().inputs
        given = {entry.id: entry.default for entry in entries if getattr(entry, "default", None) is not None}
        with torch.inference_mode():
            return node.PREPARE_CLASS_CLONE(None).execute(**{**given, "model_name": name}).args[0]

    eps = load("scenes_unet.safetensors")
    return {
        "eps": eps,
        "v": ModelSamplingDiscrete().patch(eps, "v_prediction", False)[0],
        "flow": load("scenes_flow.safetensors"),
    }


def class_conditions(execute, models):
    """CONDITIONING by class name, "" the empty one."""

    def of(label):
        return execute("Guidance_ClassConditioning", model=models["eps"], class_label=label)[0]

    return {label: of(label) for label in ("star", "red", "dotted", "")}


def patch(execute, model, name="constant", scale=0.0, settings=None, **window):
    chosen = {"method": name, **(METHODS[name] if settings is None else settings)}
    return execute("Guidance_CFGPatch", model=model, method=chosen, guidance_scale=scale, **window)[0]


def condition(execute, conditioning, scale, **options):
    return execute("Guidance_CFGCondition", conditioning=conditioning, guidance_scale=scale, **options)[0]


def combiner(execute, model, conditions, negative=None, name="constant", settings=None):
    chosen = {"method": name, **(METHODS[name] if settings is None else settings)}
    wired = {f"condition{k}": value for k, value in enumerate(conditions)}
    return execute("Guidance_CFGCombiner", model=model, conditions=wired, negative=negative, method=chosen)[0]


def start(batch, seed=0):
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def unclamped(model):
    """Without the clamp of x0 that the loader puts behind CFG."""
    model = model.clone()
    model.model_options["sampler_post_cfg_function"] = []
    return model


def ksampler(model, positive, negative, cfg, batch=2, steps=4, sampler="euler", noise=None, sigmas=None):
    import comfy.sample

    noise = start(batch) if noise is None else noise
    latent = torch.zeros_like(noise)
    options = {"seed": 1, "disable_pbar": True, "sigmas": sigmas}
    with torch.inference_mode():
        return comfy.sample.sample(model, noise, steps, cfg, sampler, "normal", positive, negative, latent, **options)


def guided(guider, batch=2, steps=4, sampler="euler", noise=None, sigmas=None):
    import comfy.samplers

    noise = start(batch) if noise is None else noise
    sampling = guider.model_patcher.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", steps) if sigmas is None else sigmas
    with torch.inference_mode():
        return guider.sample(
            noise, torch.zeros_like(noise), comfy.samplers.sampler_object(sampler), sigmas, disable_pbar=True, seed=1
        ).cpu()


class Counter:
    """Counts calls of a MODEL's network, and the pictures in them."""

    def __init__(self, model):
        self.model = model.clone()
        self.calls, self.pictures = 0, 0
        self.model.set_model_unet_function_wrapper(self)

    def __call__(self, apply, arguments):
        self.calls += 1
        self.pictures += len(arguments["input"])
        return apply(arguments["input"], arguments["timestep"], **arguments["c"])
