"""CFG Patch and CFG Combiner beside the host's hooks and guiders: who honours what, the table of the help page."""

import pytest
import torch
from cfg_sampling import class_models, combiner, condition, guided, ksampler, patch
from hosts import hosts_own

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def models(pack_nodes):
    return class_models(pack_nodes)


def test_basic_guider_with_a_patch_and_no_negative_samples(execute, models, conds):
    from comfy_extras.nodes_custom_sampler import Guider_Basic

    guider = Guider_Basic(patch(execute, models["eps"], "APG"))
    guider.set_conds(conds["star"])
    assert torch.equal(guided(guider), ksampler(models["eps"], conds["star"], conds[""], 1.0))


# Who honours what: the table of the help page. True: the hook acts on the result.
def pre_cfg(model):
    model.set_model_sampler_pre_cfg_function(lambda a: [0.5 * a["conds_out"][0], *a["conds_out"][1:]])


def post_cfg(model):
    model.set_model_sampler_post_cfg_function(lambda a: 0.5 * a["denoised"])


def calc_cond_batch(model):
    import comfy.samplers

    def batch(a):
        out = comfy.samplers.calc_cond_batch(a["model"], a["conds"], a["input"], a["sigma"], a["model_options"])
        return [0.5 * part for part in out]

    model.set_model_sampler_calc_cond_batch_function(batch)


def predict_noise(model):
    from comfy.patcher_extension import WrappersMP

    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "test", lambda executor, *a, **k: 0.5 * executor(*a, **k))


@pytest.mark.parametrize("hook", [pre_cfg, post_cfg, calc_cond_batch, predict_noise])
@pytest.mark.parametrize("node", ["patch", "combiner"])
@pytest.mark.parametrize("before", [True, False])
def test_every_chaining_hook_of_the_host_is_honoured(execute, models, conds, hook, node, before):
    """The picture is the one that KSampler with the same hook makes, whether the other node stands before or behind."""
    hooked = models["eps"].clone()
    hook(hooked)
    expected = ksampler(hooked, conds["star"], conds[""], 4.5)
    if node == "combiner":
        result = guided(combiner(execute, hooked, [condition(execute, conds["star"], 4.5)], conds[""]))
    elif before:
        result = ksampler(patch(execute, hooked, "perp-neg"), conds["star"], conds[""], 4.5)
    else:
        patched = patch(execute, models["eps"], "perp-neg").clone()
        hook(patched)
        result = ksampler(patched, conds["star"], conds[""], 4.5)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("node", ["patch", "combiner"])
def test_a_taken_cfg_function_is_refused_with_the_name_of_its_node(execute, models, conds, node):
    from comfy_extras.nodes_model_advanced import RescaleCFG

    (model,) = RescaleCFG().patch(models["eps"], 0.7)
    with pytest.raises(ValueError, match="RescaleCFG"):
        if node == "patch":
            ksampler(patch(execute, model, "APG"), conds["star"], conds[""], 4.5)
        else:
            guided(combiner(execute, model, [condition(execute, conds["star"], 4.5)], conds[""]))


def test_a_schedule_alone_works_with_a_taken_cfg_function(execute, models, conds):
    from comfy_extras.nodes_model_advanced import RescaleCFG

    (model,) = RescaleCFG().patch(models["eps"], 0.7)
    scheduled = ksampler(patch(execute, model, scale=4.5), conds["star"], conds[""], 2.0)
    assert torch.equal(scheduled, ksampler(model, conds["star"], conds[""], 4.5))


@pytest.mark.parametrize("name", ["Guider_DualCFG", "Guider_PerpNeg"])
def test_guiders_with_their_own_formula_refuse_a_patch(execute, models, conds, name):
    from comfy_extras import nodes_custom_sampler, nodes_perpneg

    kind = getattr(nodes_custom_sampler, name, None) or getattr(nodes_perpneg, name)
    guider = kind(patch(execute, models["eps"], "APG"))
    guider.set_conds(conds["star"], conds["red"], conds[""])
    guider.set_cfg(3.0, 1.0)
    with pytest.raises(ValueError, match=f"{name}.*CFG Combiner"):
        guided(guider)


def test_dual_model_guider_takes_a_patch(execute, models, conds):
    def made(model):
        guider = hosts_own("comfy_extras.nodes_custom_sampler", "Guider_DualModel")(model, models["eps"])
        guider.set_conds(conds["star"], conds[""])
        guider.set_cfg(4.5)
        return guided(guider)

    rescaled = made(patch(execute, models["eps"], "rescale"))
    torch.testing.assert_close(
        rescaled, ksampler(patch(execute, models["eps"], "rescale"), conds["star"], conds[""], 4.5), atol=1e-3, rtol=0
    )
    assert (rescaled - made(models["eps"])).abs().max() > 1e-3
