"""CFG++ under every sampler of the host: x0 at its strength, the noise of the negative."""

import pytest
import torch
from cfg_sampling import class_models, combiner, condition, guided, ksampler, patch, start, unclamped

from pack.guidance.samplers import PRESENT

pytestmark = pytest.mark.host
LEVELS = {"eps": [8.0, 5.0, 3.0, 2.0, 0.7, 0.2, 0.0], "flow": [0.98, 0.9, 0.75, 0.5, 0.3, 0.1, 0.0]}
STRENGTH = 0.6


@pytest.fixture(scope="module")
def models(pack_nodes):
    return class_models(pack_nodes)


def constant(apply, given):
    """The condition sees 1 and the negative -1, whatever x is."""
    sides = given["cond_or_uncond"]
    return torch.cat(
        [
            torch.full_like(part, 1.0 - 2.0 * side)
            for part, side in zip(given["input"].chunk(len(sides)), sides, strict=True)
        ]
    )


def states(model, conds, sampler, levels, nudge=0.0, options=None):
    """x at the beginning of each step, and at the end."""
    import comfy.samplers

    model = unclamped(model)
    model.set_model_unet_function_wrapper(constant)
    guider, kept = comfy.samplers.CFGGuider(model), []
    guider.set_conds(conds["star"], conds[""])
    guider.set_cfg(1.0)
    chosen = comfy.samplers.ksampler(sampler, options or {}) if isinstance(sampler, str) and options else sampler
    chosen = comfy.samplers.sampler_object(chosen) if isinstance(chosen, str) else chosen
    noise = start(1) + nudge
    torch.manual_seed(0)  # s_churn draws from the global stream
    with torch.inference_mode():
        end = guider.sample(
            noise,
            torch.zeros_like(noise),
            chosen,
            torch.tensor(levels),
            callback=lambda index, denoised, x, total: kept.append(x.double().clone()),
            disable_pbar=True,
            seed=1,
        )
    return [*kept, end.double()]


def check(execute, model, conds, sampler, levels, flow, options=None):
    """x'_CFG++ = keep (x_CFG++ - x_negative) + a' strength (D_c - D_u) beyond the negative's own step."""
    negative, other = (patch(execute, model, "CFG++", settings={"strength": s}) for s in (0.0, STRENGTH))
    plain, nudged, found = (
        states(one, conds, sampler, levels, nudge, options)
        for one, nudge in ((negative, 0.0), (negative, 1.0), (other, 0.0))
    )
    gap = torch.zeros_like(plain[0])
    kept = [(b - a) for a, b in zip(plain, nudged, strict=True)]
    for index, following in enumerate(levels[1:]):
        keep = (kept[index + 1] / kept[index]).nan_to_num(0.0, 0.0, 0.0)
        gap = keep * gap + (1 - following if flow else 1.0) * STRENGTH * 2
        torch.testing.assert_close(found[index + 1] - plain[index + 1], gap, rtol=2e-5, atol=2e-5)


SAMPLERS = [*[name for name in PRESENT if not name.endswith("_gpu")], "ddim"]
CASES = [(name, kind) for name in SAMPLERS for kind in LEVELS if (name, kind) != ("ddpm", "flow")]


@pytest.mark.parametrize("sampler, kind", CASES)
def test_each_step_is_the_negatives_own_and_strength_times_the_difference(execute, models, conds, sampler, kind):
    check(execute, models[kind], conds, sampler, LEVELS[kind], kind == "flow")


OPTIONS = [
    ("euler", {"s_churn": 2.0}),
    ("heun", {"s_churn": 2.0}),
    ("euler_ancestral", {"eta": 0.4}),
    ("dpmpp_2s_ancestral", {"eta": 0.4}),
    ("dpmpp_sde", {"eta": 0.4, "r": 0.3}),
]


@pytest.mark.parametrize("sampler, options", OPTIONS, ids=str)
def test_so_it_is_with_a_samplers_own_options(execute, models, conds, sampler, options):
    check(execute, models["eps"], conds, sampler, LEVELS["eps"], False, options)


@pytest.mark.parametrize("node, given", [("DDPMSampler", {"variance": "auto"}), ("DDIMSampler", {"eta": 0.7})], ids=str)
def test_so_it_is_under_the_packs_own_samplers(execute, models, conds, node, given):
    (sampler,) = execute(f"Guidance_{node}", **given, clip_denoised=False)
    check(execute, models["eps"], conds, sampler, LEVELS["eps"], False)


def test_so_it_is_where_noise_rises(execute, models, conds):
    """Inversion: x' = x0 + sigma' eps_u at higher levels, too."""
    check(execute, models["eps"], conds, "euler", [0.2, 0.7, 2.0, 5.0], False)


def refused(execute, models, conds, kind, sampler, message):
    with pytest.raises(ValueError, match=f"CFG Patch: {message}"):
        ksampler(patch(execute, models[kind], "CFG++"), conds["star"], conds[""], 1.0, sampler=sampler)
    guider = combiner(execute, models[kind], [condition(execute, conds["star"], 1.0)], conds[""], "CFG++")
    with pytest.raises(ValueError, match=f"CFG Combiner: {message}"):
        guided(guider, sampler=sampler)


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "dpmpp_2m_sde", "dpmpp_2m_sde_heun"])
def test_a_sampler_that_looks_back_is_refused(execute, models, conds, sampler):
    refused(execute, models, conds, "eps", sampler, "CFG.. has no scale for a multistep sampler; choose euler, ddim")


@pytest.mark.parametrize("sampler", ["uni_pc", "lms", "dpmpp_3m_sde", "res_multistep"])
def test_a_sampler_whose_step_is_not_known_is_refused(execute, models, conds, sampler):
    refused(
        execute, models, conds, "eps", sampler, f"how far the sampler {sampler[:3]}.* isn't known.*choose one of euler"
    )


def test_ddpm_on_a_flow_is_refused(execute, models, conds):
    refused(execute, models, conds, "flow", "ddpm", "the sampler ddpm is for eps and v models, not for flows")


def test_noise_that_rises_is_refused_where_fresh_noise_is_drawn(execute, models, conds):
    model = patch(execute, models["eps"], "CFG++")
    with pytest.raises(ValueError, match="CFG Patch: the noise levels rise.*use euler or ddim"):
        ksampler(model, conds["star"], conds[""], 1.0, sampler="euler_ancestral", sigmas=torch.tensor([0.5, 2.0]))
