"""What CFG does to single steps of a run: CFG++'s step, steps held still or skipped, guides that add to it."""

import math

import pytest
import torch
from cfg_sampling import (
    Counter,
    class_models,
    combiner,
    condition,
    guided,
    ksampler,
    patch,
    start,
    unclamped,
)

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def models(pack_nodes):
    return class_models(pack_nodes)


def test_cfg_plus_plus_is_the_papers_step_under_euler(execute, models, conds):
    """x0 = D_u + s (D_c - D_u), x' = x0 + sigma' eps_u, written out."""
    model = unclamped(models["eps"])
    level, after, s = 2.0, 1.2, 0.6
    x = start(2) * math.sqrt(1 + level**2)
    predictions = {}
    for name in ("star", ""):
        one = ksampler(model, conds[name], conds[""], 1.0, noise=x / level, sigmas=torch.tensor([level, 0.0]))
        predictions[name] = one
    x0 = predictions[""] + s * (predictions["star"] - predictions[""])
    expected = x0 + after * (x - predictions[""]) / level

    guider = combiner(execute, model, [condition(execute, conds["star"], 1.0)], conds[""], "CFG++")
    kept = []
    import comfy.samplers

    sigmas = torch.tensor([level, after, 0.0])
    with torch.inference_mode():
        guider.sample(
            x / level,
            torch.zeros_like(x),
            comfy.samplers.sampler_object("euler"),
            sigmas,
            callback=lambda step, denoised, x, total: kept.append(x.clone()),
            disable_pbar=True,
            seed=1,
        )
    torch.testing.assert_close(kept[1], expected, atol=1e-5, rtol=0)


def test_zero_init_leaves_a_flow_where_it_is(execute, models, conds):
    """Half of the steps still, the other half as if begun there; nothing is evaluated meanwhile."""
    counter = Counter(models["flow"])
    guider = combiner(
        execute,
        counter.model,
        [condition(execute, conds["star"], 3.0)],
        conds[""],
        "CFG-Zero*",
        {"strength": 0.0, "zero_init": 0.5},
    )
    guided(guider, batch=1, steps=4)
    assert counter.calls == 2


def test_guides_are_silent_while_zero_init_holds(execute, models, conds):
    guide = execute("Guidance_PaletteGuide", image=torch.rand(1, 32, 32, 3), start_percent=0.0, end_percent=1.0)[0]
    settings = {"strength": 0.0, "zero_init": 1.0}
    model = patch(execute, models["flow"], "CFG-Zero*", settings=settings)
    steered = execute("Guidance_ApplyGuides", model=model, guides=guide)[0]
    noise = start(1)
    still = ksampler(steered, conds["star"], conds[""], 3.0, noise=noise)
    assert torch.equal(still, ksampler(model, conds["star"], conds[""], 3.0, noise=noise))


def test_guides_add_to_the_combiner(execute, models, conds):
    guide = execute("Guidance_PaletteGuide", image=torch.zeros(1, 32, 32, 3), start_percent=0.0, end_percent=1.0)[0]
    steered = execute("Guidance_ApplyGuides", model=models["eps"], guides=guide)[0]
    conditions = [condition(execute, conds["star"], 3.0)]
    dark = guided(combiner(execute, steered, conditions, conds[""]), steps=8)
    plain = guided(combiner(execute, models["eps"], conditions, conds[""]), steps=8)
    assert dark.mean() < plain.mean() - 0.05


def test_adaptive_skip_saves_evaluations(execute, models, conds):
    counter = Counter(models["eps"])
    settings = {"threshold": 0.5}
    ksampler(patch(execute, counter.model, "adaptive skip", settings=settings), conds["star"], conds[""], 4.5, batch=1)
    assert counter.pictures == 2 + 3


def test_zero_init_waits_for_pure_noise(execute, models, conds):
    """A run that begins in the middle is not held: nothing changes there."""
    import comfy.samplers

    flow = models["flow"]
    sigmas = comfy.samplers.calculate_sigmas(flow.get_model_object("model_sampling"), "normal", 8)[4:]
    settings = {"strength": 0.0, "zero_init": 0.5}
    held = ksampler(patch(execute, flow, "CFG-Zero*", settings=settings), conds["star"], conds[""], 3.0, sigmas=sigmas)
    assert torch.equal(held, ksampler(flow, conds["star"], conds[""], 3.0, sigmas=sigmas))
