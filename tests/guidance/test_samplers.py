"""What samplers make of an edit of the prediction: closed forms, and the host's own loops in float64."""

import inspect
import math
from types import SimpleNamespace

import pytest
import torch

from pack.guidance.samplers import SAMPLERS, Move, first_order, move, noise_levels, renoised_scale

LEVELS = [8.0, 5.0, 3.0, 2.0, 0.7, 0.2, 0.0]
FLOW_LEVELS = [0.98, 0.9, 0.75, 0.5, 0.3, 0.1, 0.0]
TWICE = ("heun", "dpm_2", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde", "dpmpp_sde_gpu")  # looks a step
CASES = [
    *[(name, {}) for name in SAMPLERS if not name.endswith("_gpu")],
    *[(name, {"s_churn": 2.0}) for name in ("euler", "heun", "dpm_2")],
    *[(name, {"eta": eta}) for name in ("euler_ancestral", "dpmpp_sde", "dpmpp_2m_sde") for eta in (0.0, 0.4)],
    ("dpmpp_2m_sde", {"solver_type": "heun", "eta": 0.7}),
]


def drawn(seed, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def host_model(flow, predict):
    """What the host's samplers take for a model."""
    from comfy import model_sampling

    kind = model_sampling.CONST if flow else model_sampling.EPS
    table = model_sampling.ModelSamplingDiscreteFlow if flow else model_sampling.ModelSamplingDiscrete
    sampling = type("Sampling", (table, kind), {})()

    class Model:
        inner_model = SimpleNamespace(
            inner_model=SimpleNamespace(model_sampling=sampling),
            model_patcher=SimpleNamespace(get_model_object=lambda name: sampling),
        )

        def __call__(self, x, sigma, **kwargs):
            return predict(x)

    return Model()


def states(name, flow, options, additions, start):
    """x at the beginning of each step and at the end, by the host's loop; every step predicts the same + its edit."""
    import comfy.k_diffusion.sampling as k_diffusion

    looks, seen = [], []

    def predict(x):
        looks.append(1)
        return drawn(1, 2, 3) + additions[(len(looks) - 1) // (2 if name in TWICE else 1)]

    sampler = getattr(k_diffusion, f"sample_{name}")
    if "noise_sampler" in inspect.signature(sampler).parameters:
        options = {**options, "noise_sampler": lambda sigma, following: drawn(3, 2, 3)}
    levels = torch.tensor(FLOW_LEVELS if flow else LEVELS, dtype=torch.float64)
    torch.manual_seed(0)
    end = sampler(host_model(flow, predict), start, levels, callback=lambda s: seen.append(s["x"].clone()), **options)
    return [*seen, end]


@pytest.mark.host
@pytest.mark.parametrize("flow", [False, True], ids=["sigma", "flow"])
@pytest.mark.parametrize("name, options", CASES, ids=str)
def test_an_edit_moves_each_step_of_the_hosts_samplers_by_just_that_edit(comfy, name, options, flow):
    """x'_edited - x'_plain = keep (x_edited - x_plain) + signal edit at every step, older predictions included."""
    if flow and name == "ddpm":
        with pytest.raises(ValueError, match="not for flows"):
            move(name, options, FLOW_LEVELS, 0, flow)
        return
    levels = FLOW_LEVELS if flow else LEVELS
    steps = len(levels) - 1
    moves = [move(name, options, levels, index, flow) for index in range(steps)]
    wanted = [drawn(10 + index, 2, 3) for index in range(steps)]
    additions = []
    for step, edit in zip(moves, wanted, strict=True):
        additions.append(step.edit(edit, additions[::-1]))
    nothing, start, nudge = [torch.zeros(2, 3).double()] * steps, 5 * drawn(2, 2, 3), drawn(4, 2, 3)
    plain, edited = (states(name, flow, options, how, start) for how in (nothing, additions))
    nudged = states(name, flow, options, nothing, start + nudge)
    gap, kept = torch.zeros(2, 3).double(), [(b - a) / nudge for a, b in zip(plain, nudged, strict=True)]
    for index, step in enumerate(moves):
        keep = (kept[index + 1] / kept[index]).nan_to_num()  # lcm keeps nothing
        gap = keep * gap + step.signal * wanted[index]
        torch.testing.assert_close(edited[index + 1] - plain[index + 1], gap, rtol=1e-12, atol=1e-12)


def test_the_deterministic_part_of_an_ancestral_step_goes_to_sigma_down():
    """DDIM with eta 1 is DDPM: q^2 instead of q, so an edit for q is (1 + q) too strong."""
    q = 0.6
    assert noise_levels(5.0, 3.0, 1.0, False)[0] == pytest.approx(5.0 * q**2, rel=1e-12)
    assert first_order(5.0, 3.0, 1.0).now == pytest.approx(1 - q**2, rel=1e-12)
    assert first_order(5.0, 3.0, 1.0).now / first_order(5.0, 3.0).now == pytest.approx(1 + q, rel=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_fresh_noise_brings_a_step_back_to_its_level(eta):
    down, up = noise_levels(5.0, 3.0, eta, False)
    assert math.hypot(down, up) == pytest.approx(3.0, rel=1e-12)
    down, up = noise_levels(0.9, 0.6, eta, True)
    share = (1 - 0.6) / (1 - down)
    assert math.hypot(share * down, up) == pytest.approx(0.6, rel=1e-12)


def test_an_edit_of_a_multistep_sampler_takes_back_what_older_edits_still_do():
    step = Move(1.0, 0.5, (-0.2,))
    wanted, past = drawn(0, 2, 3), drawn(1, 2, 3)
    torch.testing.assert_close(0.5 * step.edit(wanted, [past]) - 0.2 * past, wanted, rtol=1e-12, atol=1e-12)


def test_a_sampler_that_is_not_known_is_refused_in_words():
    with pytest.raises(ValueError, match="what the sampler uni_pc makes of an edit is not known; use one of euler"):
        move("uni_pc", {}, LEVELS, 0, False)


@pytest.mark.parametrize("flow", [False, True], ids=["sigma", "flow"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_cfg_at_the_renoised_scale_makes_cfg_plus_plus_of_an_ancestral_step(eta, flow):
    """x' is the negative's step, and strength (D_c - D_u) more in x0's own share: the noise is the negative's."""
    sigma, following, strength = 0.9, 0.6, 0.6
    x, cond, uncond = (drawn(seed, 2, 3) for seed in range(3))
    step = first_order(sigma, following, eta, flow)
    down, _ = noise_levels(sigma, following, eta, flow)
    share = (1 - following) / (1 - down) if flow else 1.0

    def euler(denoised):
        return share * (denoised + down / sigma * (x - denoised))

    guided = uncond + renoised_scale(step, strength) * (cond - uncond)
    wanted = euler(uncond) + step.signal * strength * (cond - uncond)
    torch.testing.assert_close(euler(guided), wanted, rtol=1e-12, atol=1e-12)


def test_cfg_plus_plus_of_a_multistep_sampler_is_an_edit_and_no_scale():
    with pytest.raises(ValueError, match="CFG.. has no scale for a multistep sampler"):
        renoised_scale(move("dpmpp_2m", {}, LEVELS, 2, False), 0.6)
