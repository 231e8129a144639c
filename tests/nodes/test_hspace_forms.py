"""One network as an eps, a v and a flow model: the same asymmetric edit moves the same picture as far."""

from functools import cache, partial

import hspace_scenes
import pytest
import torch
from hspace_edits import apply_edit
from hspace_scenes import off, random

pytestmark = pytest.mark.host
WHOLE, STEP = (*torch.logspace(0.5, -1, 8, dtype=torch.float64).tolist(), 0.0), (1.0, 0.7)
ONE_LOOK = ("euler", "ddim", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "lcm")  # a step
FRESH = ("euler_ancestral", "dpmpp_sde", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "lcm")  # these draw noise


def schedule(model, form):
    """(parametrisation of that form, the network's wrapper or None); a flow has x = X / (1 + S), s = S / (1 + S)."""
    import comfy.model_sampling as host

    ve = model.get_model_object("model_sampling")
    if form == "v":
        sampling = type("Sampling", (host.ModelSamplingDiscrete, host.V_PREDICTION), {})()
        sampling.set_sigmas(ve.sigmas.clone())
        return sampling, as_v

    class Flow(host.ModelSamplingDiscreteFlow, host.CONST):
        def old(self, s):
            return host.reshape_sigma(s / (1 - s), 4)

        def calculate_input(self, s, x):
            return x * (1 + self.old(s)) / (1 + self.old(s) ** 2) ** 0.5

        def calculate_denoised(self, s, eps, x):
            return x * (1 + self.old(s)) - self.old(s) * eps

        def timestep(self, s):
            return ve.timestep(s / (1 - s))

    sampling = Flow()
    sampling.set_parameters(shift=1.0, timesteps=1000, multiplier=1)
    return sampling, None


def as_v(executor, x, t, *args, **kwargs):
    """v = sqrt(1 + sigma^2) eps - sigma x_t of the same network, its decoder half included."""
    from pack.nodes.host.pixel_model import HALVES

    sigma = kwargs["transformer_options"]["sigmas"][0]

    def turned(eps):
        return (1 + sigma**2) ** 0.5 * eps - sigma * x

    halves = kwargs["transformer_options"].get(HALVES)
    eps = executor(x, t, *args, **kwargs)
    if halves:
        decode = halves["decode"]
        halves["decode"] = lambda h: turned(decode(h))
    return turned(eps)


@pytest.fixture(scope="module")
def effect(pack_nodes, models):
    """What an edit changes in the picture, by form and sampler; None as direction: the plain picture."""
    import comfy.samplers
    from comfy.patcher_extension import WrappersMP
    from conftest import run_node

    scene = hspace_scenes.on_hosts(models, pack_nodes)["scenes_unet"]
    base = scene.model.clone()
    base.model_options["sampler_post_cfg_function"] = []

    def drawn(form, sampler, levels, direction):
        model = base if direction is None else apply_edit(partial(run_node, pack_nodes), base, direction)
        model, levels = model.clone(), torch.tensor(levels)
        if form != "eps":
            sampling, wrapper = schedule(base, form)
            model.add_object_patch("model_sampling", sampling)
            if wrapper is not None:
                model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "as v", wrapper)
        if form == "flow":
            levels = levels / (1 + levels)
        given, seeds = {}, iter(range(1000))
        if sampler in FRESH:
            given["noise_sampler"] = lambda sigma, following: random(2, *scene.shape, seed=next(seeds))
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(scene.positive, scene.negative)
        guider.set_cfg(1.0)
        with torch.inference_mode():
            chosen = (
                comfy.samplers.sampler_object(sampler) if sampler == "ddim" else comfy.samplers.ksampler(sampler, given)
            )
            return guider.sample(scene.noise, torch.zeros_like(scene.noise), chosen, levels, disable_pbar=True, seed=0)

    @cache
    def effect(form, sampler, levels):
        edited, plain = (drawn(form, sampler, levels, direction) for direction in (scene.direction, None))
        return plain, edited - plain

    return effect


@pytest.mark.parametrize("form", ["v", "flow"])
@pytest.mark.parametrize("sampler", [*ONE_LOOK, "dpmpp_sde"])
def test_a_step_of_any_sampler_moves_the_picture_as_far_in_every_form(effect, sampler, form):
    """x0's share a' of it; what comes out of a run is x / a', and the noise is the same."""
    plain, expected = effect("eps", sampler, STEP)
    _, found = effect(form, sampler, STEP)
    assert expected.abs().max() > 1e-3 * plain.abs().max()
    assert (found - expected).abs().max() < 2e-6 * plain.abs().max()


@pytest.mark.parametrize("form", ["v", "flow"])
@pytest.mark.parametrize("sampler, tolerance", [("euler", 1e-5), ("ddim", 1e-5), ("dpmpp_sde", 5e-5)])
def test_a_run_draws_the_same_edited_picture_in_every_form(effect, sampler, tolerance, form):
    plain, expected = effect("eps", sampler, WHOLE)
    other, found = effect(form, sampler, WHOLE)
    assert expected.abs().max() > 0.02 * plain.abs().max()
    assert off(other + found, plain + expected) < tolerance
