"""MODELs and pictures for tests of h-space, their runs, and what a sampler sees of them."""

from dataclasses import dataclass

import golden_files
import guided_sampling
import pytest
import torch

KINDS = [*guided_sampling.KINDS, "unet"]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def images(count, seed=0, size=32):
    return torch.rand(count, size, size, 3, generator=torch.Generator().manual_seed(seed))


def off(value, expected):
    return golden_files.relative_error(value, expected)


@dataclass
class Scene:
    """A MODEL, how its samples look, and its conditions."""

    model: object
    shape: tuple
    positive: object
    negative: object
    channels: int

    @property
    def noise(self):
        return random(2, *self.shape, seed=1)

    @property
    def direction(self):
        return random(1, self.channels, 1, 1, seed=2)


def on_hosts(models, pack_nodes):
    """A scene for each kind of the pack's models, and for the host's U-Net with drawn weights."""
    from conftest import run_node

    from bench.guide_cost import unet

    found = {}
    for kind in guided_sampling.KINDS:
        model = models[kind][0]
        (empty,) = run_node(pack_nodes, "Guidance_ClassConditioning", model=model, class_label="")
        (star,) = run_node(pack_nodes, "Guidance_ClassConditioning", model=model, class_label="star")
        latents = model.model.latent_format
        side = model.model.facts.image_size // latents.spacial_downscale_ratio
        config = model.model.diffusion_model.network.config
        shape = (latents.latent_channels, side, side)
        found[kind] = Scene(model, shape, star, empty, config.model_channels * config.channel_mult[-1])
    host = unet(channels=32)
    golden_files.fill(host.model.diffusion_model, "unet.")
    conds = [[[random(1, 5, 768, seed=seed), {}]] for seed in (3, 4)]
    found["unet"] = Scene(host, (4, 16, 16), *conds, 128)
    return found


def run(model, scene, noise=None, steps=2, cfg=1.0, positive=None, sampler="euler"):
    import comfy.sample

    noise = scene.noise if noise is None else noise
    positive = scene.positive if positive is None else positive
    with torch.inference_mode():
        return comfy.sample.sample(
            model,
            noise,
            steps,
            cfg,
            sampler,
            "normal",
            positive,
            scene.negative,
            torch.zeros_like(noise),
            seed=1,
            disable_pbar=True,
        )


def predicted(model, scene, cfg=1.0, positive=None, noise=None, levels=(5.0, 2.0, 0.0)):
    """What a sampler sees at the first of these noise levels, under CFG."""
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive or scene.positive, scene.negative)
    guider.set_cfg(cfg)
    return looked(guider, scene, noise, levels)


def looked(guider, scene, noise=None, levels=(5.0, 2.0, 0.0)):
    """What a sampler sees of a guider at the first of these noise levels."""
    import comfy.samplers

    found = []

    def look(model, x, sigmas, extra_args, callback, disable):
        found.append(model(x, sigmas[0].expand(len(x)), **extra_args))
        return x

    look.__name__ = "sample_euler"
    noise = scene.noise if noise is None else noise
    with torch.inference_mode():
        sampler, sigmas = comfy.samplers.KSAMPLER(look), torch.tensor(levels)
        guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True, seed=0)
    return found[0]


def refused(call, *parts):
    with pytest.raises(ValueError) as error:
        call()
    for part in parts:
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def windows(model, dim=0, length=2):
    from comfy.context_windows import (
        ContextFuseMethods,
        ContextSchedules,
        IndexListContextHandler,
        get_matching_context_schedule,
        get_matching_fuse_method,
    )

    model = model.clone()
    model.model_options["context_handler"] = IndexListContextHandler(
        context_schedule=get_matching_context_schedule(ContextSchedules.STATIC_STANDARD),
        fuse_method=get_matching_fuse_method(ContextFuseMethods.FLAT),
        context_length=length,
        context_overlap=1,
        dim=dim,
    )
    return model


def cached(model, name):
    from comfy_extras import nodes_easycache

    node = {"EasyCache": nodes_easycache.EasyCacheNode, "LazyCache": nodes_easycache.LazyCacheNode}[name]
    return node.execute(model, 0.9, 0.15, 0.95, False).args[0]


def painter(scene):
    from families.trials import Painter

    from pack.nodes.host.pictures import vae_around

    return vae_around(Painter(scene.shape[0], 8), scene.shape[0], 8)


def streams_at_levels(scene, noise, block):
    """{sigma: h} under the positive condition at the pictures that blocks are tried on."""
    import comfy.samplers

    from pack.nodes.host.hspace.directions.sensitivity import LEVELS, Looks
    from pack.nodes.host.hspace.record import recording
    from pack.nodes.host.sampling import sampled

    found = {}
    guider = comfy.samplers.CFGGuider(recording(scene.model, lambda h, place: found.update({place.sigma: h}), block))
    guider.inner_set_conds({"positive": scene.positive})
    sampling = scene.model.get_model_object("model_sampling")
    sigmas = [float(sampling.percent_to_sigma((level + 0.5) / LEVELS)) for level in range(LEVELS)]
    clean = sampled(scene.model, scene.negative, noise, 2)
    guider.sample(noise, clean, Looks(), torch.tensor([*sigmas, 0.0]), disable_pbar=True, seed=0)
    return found
