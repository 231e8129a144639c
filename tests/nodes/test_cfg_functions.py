"""Other nodes' functions beside several conditions and scales that change, and what would be applied twice."""

import pytest
import torch
from cfg_sampling import class_models, combiner, condition, guided, ksampler, patch

pytestmark = pytest.mark.host
LEVEL = torch.tensor([5.0, 1.0, 0.0])


@pytest.fixture(scope="module")
def models(pack_nodes):
    return class_models(pack_nodes)


def several(execute, conds, count):
    wanted = {"star": 4.0, "red": 2.0, "dotted": -1.0}
    return [condition(execute, conds[name], scale) for name, scale in list(wanted.items())[:count]]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_skip_layer_guidance_simple_takes_any_number_of_conditions(execute, models, conds, count):
    """Its blocks are a transformer's, so on a U-Net it changes nothing."""
    from comfy_extras.nodes_slg import SkipLayerGuidanceDiTSimple

    layers = {"double_layers": "1", "single_layers": "1", "start_percent": 0.0, "end_percent": 1.0}
    model = SkipLayerGuidanceDiTSimple.execute(models["eps"], **layers).args[0]
    conditions = several(execute, conds, count)
    ours = guided(combiner(execute, model, conditions, conds[""]), sigmas=LEVEL[1:])
    plain = guided(combiner(execute, models["eps"], conditions, conds[""]), sigmas=LEVEL[1:])
    torch.testing.assert_close(ours, plain, atol=5e-5, rtol=0)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("kind", ["calc_cond_batch", "pre_cfg"])
def test_functions_get_the_main_condition_and_the_negative(execute, models, conds, kind, count):
    """And what they make of them stands beside the other conditions."""
    import comfy.samplers

    seen = []

    def function(a):
        out = a.get("conds_out")
        if out is None:
            out = comfy.samplers.calc_cond_batch(a["model"], a["conds"], a["input"], a["sigma"], a["model_options"])
        main, negative = out
        seen.append(len(a["conds"]))
        return [negative, negative]

    model = models["eps"].clone()
    getattr(model, f"set_model_sampler_{kind}_function")(function)
    conditions = several(execute, conds, count)
    ours = guided(combiner(execute, model, conditions, conds[""]), sigmas=LEVEL)
    nothing = [condition(execute, conds[""], 1.0), *conditions[1:]]
    wanted = guided(combiner(execute, models["eps"], nothing, conds[""]), sigmas=LEVEL)
    assert set(seen) == {2}
    torch.testing.assert_close(ours, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["calc_cond_batch", "pre_cfg"])
def test_a_function_that_gives_another_number_of_predictions_is_named(execute, models, conds, kind):
    model = models["eps"].clone()
    getattr(model, f"set_model_sampler_{kind}_function")(lambda a: [a["input"]])
    with pytest.raises(ValueError, match="CFG Combiner: a function of test_a_function.* gives 1 predictions"):
        guided(combiner(execute, model, several(execute, conds, 2), conds[""]), sigmas=LEVEL)


@pytest.mark.parametrize("curve", ["constant", "linear", "cosine down", "0:1 0.5:0.2 1:1"])
@pytest.mark.parametrize("other", ["APG", "latent operation"])
def test_functions_before_cfg_are_told_this_steps_scale(execute, models, conds, other, curve):
    if other == "APG":
        from comfy_extras.nodes_apg import APG

        model = APG.execute(models["eps"], eta=0.0, norm_threshold=0.06, momentum=0.0).args[0]
    else:
        model = models["eps"].clone()
        model.set_model_sampler_pre_cfg_function(
            lambda a: [a["conds_out"][0] / max(1.0, a["cond_scale"]), *a["conds_out"][1:]]
        )
    patched = ksampler(patch(execute, model, scale=4.0, curve=curve), conds["star"], conds[""], 4.0, steps=6)
    conditions = [condition(execute, conds["star"], 4.0, curve=curve)]
    assert torch.equal(patched, guided(combiner(execute, model, conditions, conds[""]), steps=6))


@pytest.mark.parametrize("sampler", ["euler_cfg_pp", "dpmpp_2m_cfg_pp", "euler_ancestral_cfg_pp"])
@pytest.mark.parametrize("node", ["CFG Patch", "CFG Combiner"])
def test_cfg_plus_plus_under_a_sampler_that_is_it_is_refused(execute, models, conds, node, sampler):
    with pytest.raises(ValueError, match=f"{node}: the method CFG\\+\\+ would be applied twice.*{sampler}"):
        if node == "CFG Patch":
            ksampler(patch(execute, models["eps"], "CFG++"), conds["star"], conds[""], 0.6, sampler=sampler)
        else:
            guider = combiner(execute, models["eps"], [condition(execute, conds["star"], 1.0)], conds[""], "CFG++")
            guided(guider, sampler=sampler)


@pytest.mark.parametrize("name", ["constant", "rescale"])
def test_other_methods_work_under_cfg_pp_samplers(execute, models, conds, name):
    model = patch(execute, models["eps"], name)
    assert torch.isfinite(ksampler(model, conds["star"], conds[""], 0.6, sampler="euler_cfg_pp")).all()


def test_a_method_that_finds_no_negative_says_so(execute, models, conds, caplog):
    from comfy_extras.nodes_custom_sampler import Guider_Basic

    guider = Guider_Basic(patch(execute, models["eps"], "APG"))
    guider.set_conds(conds["star"])
    guided(guider, sigmas=LEVEL)
    assert "APG can't act under Guider_Basic" in caplog.text
