"""What CFG Condition, CFG Combiner and CFG Patch refuse, in words."""

import re

import pytest
import torch
from cfg_sampling import class_models, combiner, condition, guided, ksampler, patch

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def models(pack_nodes):
    return class_models(pack_nodes)


REFUSALS = {
    "nan": ({"guidance_scale": float("nan")}, "-100.0 to 100.0 are possible, and nan came.*'guidance_scale'"),
    "reversed": ({"start_percent": 0.8, "end_percent": 0.2}, "ends.*before it starts"),
    "curve": ({"curve": "power of love"}, "curve.*power of love"),
    "parent": ({"reference": "parent"}, "none is wired.*'parent'"),
    "model": ({"reference": "model"}, "none is wired.*'model'"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_condition_that_makes_no_sense_is_refused_in_one_sentence(execute, conds, case):
    changed, message = REFUSALS[case]
    with pytest.raises(ValueError, match=message) as caught:
        execute("Guidance_CFGCondition", conditioning=conds["star"], **changed)
    assert re.search(r" \(input '[\w ,]+' of CFG Condition\)$", str(caught.value))


def test_a_method_that_does_not_exist_is_refused(execute, models):
    """The host drops the value."""
    with pytest.raises(ValueError, match="there is no such method.*APG.*'method'"):
        execute("Guidance_CFGPatch", model=models["eps"], guidance_scale=0.0)


def test_zero_init_and_samplers_that_read_the_negative_are_refused_together(execute, models, conds):
    settings = {"strength": 1.0, "zero_init": 0.5}
    model = patch(execute, models["flow"], "CFG-Zero*", settings=settings)
    with pytest.raises(ValueError, match="CFG Patch: at the steps of zero_init.*cfg_pp"):
        ksampler(model, conds["star"], conds[""], 3.0, sampler="euler_cfg_pp")


def test_an_empty_list_of_conditions_is_refused(execute, models):
    with pytest.raises(ValueError, match="at least one condition.*'conditions'"):
        combiner(execute, models["eps"], [])


def test_a_missing_negative_is_refused(execute, models, conds):
    with pytest.raises(ValueError, match="condition 1 is measured against the negative, and none is wired"):
        combiner(execute, models["eps"], [condition(execute, conds["star"], 3.0)])


def test_a_patch_with_a_scale_and_no_negative_is_refused(execute, models, conds):
    from comfy_extras.nodes_custom_sampler import Guider_Basic

    guider = Guider_Basic(patch(execute, models["eps"], scale=4.0))
    guider.set_conds(conds["star"])
    with pytest.raises(ValueError, match="no negative"):
        guided(guider)


def test_the_same_method_twice_is_refused(execute, models):
    with pytest.raises(ValueError, match="rescale is set twice"):
        patch(execute, patch(execute, models["eps"], "rescale"), "rescale")


def test_dynamic_threshold_on_latents_and_zero_init_on_eps_are_refused(execute, models, conds, pack_nodes):
    latent = execute("Guidance_LoadModel", model_name="scenes_latent.safetensors")[0]
    noise = torch.zeros(1, 12, 16, 16)
    with pytest.raises(ValueError, match="mimic threshold"):
        guided(
            combiner(execute, latent, [condition(execute, conds["star"], 3.0)], conds[""], "dynamic threshold"),
            noise=noise,
        )
    settings = {"strength": 1.0, "zero_init": 0.1}
    with pytest.raises(ValueError, match="zero_init"):
        ksampler(patch(execute, models["eps"], "CFG-Zero*", settings=settings), conds["star"], conds[""], 3.0)


def test_perturbed_self_on_other_networks_is_refused(execute, models, conds):
    conditions = [condition(execute, conds["star"], 3.0, reference="perturbed self")]
    with pytest.raises(ValueError, match="perturbed self.*U-Nets"):
        guided(combiner(execute, models["eps"], conditions))
