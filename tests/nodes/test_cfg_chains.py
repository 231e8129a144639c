"""A chain of samplers with CFG's methods: one run, or it says that it is several."""

import logging

import pytest
import torch
from cfg_sampling import Counter, class_models, combiner, condition, guided, ksampler, patch, start

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def models(pack_nodes):
    return class_models(pack_nodes)


def levels(model, steps=8):
    import comfy.samplers

    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", steps)


def advanced(model, conds, cuts, steps=8, sampler="euler"):
    """KSampler (Advanced) several times: the parts of one run."""
    import nodes

    latent = {"samples": torch.zeros(1, 3, 32, 32)}
    ends = [0, *cuts, steps]
    for place, (begin, end) in enumerate(zip(ends, ends[1:], strict=False)):
        noise = "enable" if place == 0 else "disable"
        left = "disable" if end == steps else "enable"
        given = (model, noise, 1, steps, 4.0, sampler, "normal", conds["star"], conds[""], latent, begin, end, left)
        with torch.inference_mode():
            (latent,) = nodes.KSamplerAdvanced().sample(*given)
    return latent["samples"]


@pytest.mark.parametrize("cuts", [[4], [1], [2], [1, 3]])
@pytest.mark.parametrize("share", [0.25, 0.5])
def test_zero_init_holds_the_same_steps_in_a_chain(execute, models, conds, cuts, share):
    settings = {"strength": 1.0, "zero_init": share}
    model = patch(execute, models["flow"], "CFG-Zero*", settings=settings)
    whole = advanced(model, conds, [])
    torch.testing.assert_close(advanced(model, conds, cuts), whole, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("share", "held"), [(0.04, 0), (0.1, 1), (0.25, 2), (0.5, 4), (1.0, 8)])
def test_zero_init_holds_its_share_of_the_steps(execute, models, conds, share, held):
    counter = Counter(models["flow"])
    settings = {"strength": 0.0, "zero_init": share}
    guider = combiner(
        execute, counter.model, [condition(execute, conds["star"], 3.0)], conds[""], "CFG-Zero*", settings
    )
    guided(guider, batch=1, steps=8)
    assert counter.calls == 8 - held


def test_zero_init_is_not_for_a_picture_with_fresh_noise(execute, models, conds):
    """Begun in the middle with noise of its own: no part of a longer run."""
    flow = models["flow"]
    sigmas = levels(flow)[1:]
    settings = {"strength": 0.0, "zero_init": 0.5}
    held = ksampler(patch(execute, flow, "CFG-Zero*", settings=settings), conds["star"], conds[""], 3.0, sigmas=sigmas)
    assert torch.equal(held, ksampler(flow, conds["star"], conds[""], 3.0, sigmas=sigmas))


REMEMBERING = {
    "APG": ({"eta": 0.0, "cap": 0.06, "momentum": -0.5}, "APG's momentum"),
    "history (HiGS)": ({"strength": 0.5, "memory": 0.6}, "HiGS"),
    "adaptive skip": ({"threshold": 0.9}, "adaptive skip"),
}


@pytest.mark.parametrize("node", ["CFG Patch", "CFG Combiner"])
@pytest.mark.parametrize("name", REMEMBERING)
def test_a_run_that_begins_in_the_middle_says_that_memory_begins_anew(execute, models, conds, caplog, name, node):
    settings, words = REMEMBERING[name]
    noise, sigmas = start(1), levels(models["eps"])
    with caplog.at_level(logging.WARNING):
        for part, expected in ((sigmas[:3], False), (sigmas[5:7], True)):
            caplog.clear()
            if node == "CFG Patch":
                model = patch(execute, models["eps"], name, settings=settings)
                ksampler(model, conds["star"], conds[""], 4.0, noise=noise, sigmas=part)
            else:
                conditions = [condition(execute, conds["star"], 4.0)]
                guided(
                    combiner(execute, models["eps"], conditions, conds[""], name, settings), noise=noise, sigmas=part
                )
            said = [record.getMessage() for record in caplog.records if "begins anew" in record.getMessage()]
            assert len(said) == expected
            assert all(node in text and words in text for text in said)


def test_methods_without_memory_say_nothing_in_the_middle(execute, models, conds, caplog):
    settings = {"eta": 0.0, "cap": 0.06, "momentum": 0.0}
    model = patch(execute, models["eps"], "APG", settings=settings)
    with caplog.at_level(logging.WARNING):
        ksampler(model, conds["star"], conds[""], 4.0, batch=1, sigmas=levels(models["eps"])[5:7])
    assert "begins anew" not in caplog.text
