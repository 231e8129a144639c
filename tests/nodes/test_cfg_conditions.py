"""CFG Combiner's conditions: windows, references and masks, and how often the network is called for them."""

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
    unclamped,
)

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def models(pack_nodes):
    return class_models(pack_nodes)


@pytest.mark.parametrize("node", ["patch", "combiner"])
def test_an_interval_over_the_middle_of_the_run_skips_the_negative(execute, models, conds, node):
    """Ten steps, guidance at six: 6 x 2 + 4 x 1 = 16 evaluations, 1.6 a step instead of 2."""
    counter = Counter(models["eps"])
    progress = [step / 10 for step in range(10)]
    window = {"start_percent": 0.2, "end_percent": 0.8}
    sigmas = torch.tensor(
        [float(models["eps"].model.model_sampling.percent_to_sigma(p + 1e-6)) for p in progress] + [0]
    )
    if node == "patch":
        model = patch(execute, counter.model, scale=4.5, **window)
        ksampler(model, conds["star"], conds[""], 2.0, batch=1, sigmas=sigmas)
    else:
        conditions = [condition(execute, conds["star"], 4.5, **window)]
        guided(combiner(execute, counter.model, conditions, conds[""]), batch=1, sigmas=sigmas)
    assert counter.pictures == 16
    assert counter.calls == 10


def test_three_conditions_and_the_negative_are_one_call(execute, models, conds):
    counter = Counter(models["eps"])
    conditions = [condition(execute, conds[name], 3.0) for name in ("star", "red", "dotted")]
    guided(combiner(execute, counter.model, conditions, conds[""]), batch=1, steps=4)
    assert counter.calls == 4
    assert counter.pictures == 16


def test_a_condition_outside_its_window_is_not_evaluated(execute, models, conds):
    counter = Counter(models["eps"])
    conditions = [condition(execute, conds["star"], 3.0), condition(execute, conds["red"], 3.0, end_percent=0.5)]
    seen = []
    counter.model.set_model_unet_function_wrapper(
        lambda apply, a: (seen.append(len(a["input"])), apply(a["input"], a["timestep"], **a["c"]))[1]
    )
    guided(combiner(execute, counter.model, conditions, conds[""]), batch=1, steps=8)
    assert set(seen) == {3, 2}
    assert seen == sorted(seen, reverse=True)


def test_a_negative_whose_weights_cancel_is_not_evaluated(execute, models, conds):
    """.5 (A - N) + .5 (B - N) + N is .5 A + .5 B."""
    counter = Counter(models["eps"])
    conditions = [condition(execute, conds["star"], 0.5), condition(execute, conds["red"], 0.5)]
    result = guided(combiner(execute, counter.model, conditions, conds[""]), batch=1)
    assert counter.pictures == 8
    averaged = [condition(execute, conds[name], 0.5, reference="none") for name in ("star", "red")]
    torch.testing.assert_close(result, guided(combiner(execute, models["eps"], averaged), batch=1), atol=1e-5, rtol=0)


def test_a_parent_chain_is_instruct_pix2pix(execute, models, conds):
    """D00 + wi (Di0 - D00) + wt (Dit - Di0), against the host's own two-scale guider."""
    from comfy_extras.nodes_custom_sampler import Guider_DualCFG

    model = unclamped(models["eps"])  # the host shows other nodes a part of its result
    host = Guider_DualCFG(model)
    host.set_conds(conds["red"], conds["star"], conds[""])
    host.set_cfg(3.0, 1.5)
    parent = condition(execute, conds["star"], 1.5)
    child = condition(execute, conds["red"], 3.0, reference="parent", parent=parent)
    sigmas = torch.tensor([2.0, 0.7, 0.0])  # at sigma 150 the network's rounding alone is more than 1e-5
    ours = guided(combiner(execute, model, [parent, child], conds[""]), sigmas=sigmas)
    torch.testing.assert_close(ours, guided(host, sigmas=sigmas), atol=1e-5, rtol=0)


def test_perp_neg_is_the_hosts_for_one_picture(execute, models, conds):
    """For a batch of one the host's sums over the batch do no harm."""
    from comfy_extras.nodes_perpneg import Guider_PerpNeg

    host = Guider_PerpNeg(models["eps"])
    host.set_conds(conds["star"], conds["red"], conds[""])
    host.set_cfg(4.0, 0.7)
    conditions = [condition(execute, conds["star"], 4.0), condition(execute, conds["red"], -4.0 * 0.7)]
    ours = guided(combiner(execute, models["eps"], conditions, conds[""], "perp-neg"), batch=1)
    torch.testing.assert_close(ours, guided(host, batch=1), atol=2e-4, rtol=0)
    both = guided(combiner(execute, models["eps"], conditions, conds[""], "perp-neg"), batch=2)
    assert (guided(host, batch=2) - both).abs().max() > 1e-3  # the host's images depend on their batch mates


def test_a_second_model_of_the_same_weights_cancels(execute, models, conds, pack_nodes):
    """Autoguidance with the model itself: D_bad + w (D - D_bad) = D."""
    counter = Counter(execute("Guidance_LoadModel", model_name="scenes_unet.safetensors")[0])
    conditions = [condition(execute, conds["star"], 2.0, reference="model", model=counter.model)]
    ours = guided(combiner(execute, models["eps"], conditions))
    torch.testing.assert_close(ours, ksampler(models["eps"], conds["star"], conds[""], 1.0), atol=1e-4, rtol=0)
    assert counter.calls == 4


def test_a_weaker_second_model_is_used(execute, models, conds):
    """The reference is what the other model predicts, under its own patches."""
    weak = execute("Guidance_LoadModel", model_name="scenes_unet.safetensors")[0]
    weak.model_options["sampler_post_cfg_function"] = []
    weak.set_model_unet_function_wrapper(lambda apply, a: 0.5 * apply(a["input"], a["timestep"], **a["c"]))
    conditions = [condition(execute, conds["star"], 2.0, reference="model", model=weak)]
    ours = guided(combiner(execute, models["eps"], conditions))
    assert (ours - ksampler(models["eps"], conds["star"], conds[""], 1.0)).abs().max() > 0.01


def test_perturbed_attention_is_the_hosts_pag_on_its_unet(execute):
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance

    from bench.guide_cost import unet

    torch.manual_seed(0)
    model = unet(channels=32)
    cond = [[torch.randn(1, 77, 768), {}]]
    noise = torch.randn(1, 4, 8, 8)
    level = torch.tensor([2.0, 1.0, 0.0])
    ours = guided(
        combiner(execute, model, [condition(execute, cond, 4.0, reference="perturbed self")]), noise=noise, sigmas=level
    )
    pag = PerturbedAttentionGuidance.execute(model, 3.0).args[0]
    import comfy.samplers

    host = comfy.samplers.CFGGuider(pag)
    host.set_conds(cond, cond)
    host.set_cfg(1.0)
    torch.testing.assert_close(ours, guided(host, noise=noise, sigmas=level), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("reference", ["random condition", "other time"])
def test_references_without_a_negative_guide(execute, models, conds, reference):
    ours = guided(combiner(execute, models["eps"], [condition(execute, conds["star"], 3.0, reference=reference)]))
    assert torch.isfinite(ours).all()
    assert (ours - ksampler(models["eps"], conds["star"], conds[""], 1.0)).abs().max() > 0.01


def test_a_mask_keeps_guidance_inside(execute, models, conds):
    """Outside, one step gives the negative's prediction."""
    mask = torch.zeros(1, 32, 32)
    mask[:, :, :16] = 1
    level = torch.tensor([5.0, 0.0])
    masked = guided(
        combiner(execute, models["eps"], [condition(execute, conds["star"], 4.0, mask=mask)], conds[""]), sigmas=level
    )
    whole = guided(combiner(execute, models["eps"], [condition(execute, conds["star"], 4.0)], conds[""]), sigmas=level)
    negative = ksampler(models["eps"], conds[""], conds[""], 1.0, sigmas=level)
    torch.testing.assert_close(masked[..., :16], whole[..., :16], atol=1e-5, rtol=0)
    torch.testing.assert_close(masked[..., 16:], negative[..., 16:], atol=1e-5, rtol=0)


def test_a_negative_that_a_method_reads_is_evaluated_where_weights_cancel(execute, models, conds):
    """4 (A - N) - 3 (B - N) + N has no N left, but perp-neg looks at A - N and B - N."""

    def at(scale):
        conditions = [condition(execute, conds["star"], 4.0), condition(execute, conds["red"], scale)]
        return guided(combiner(execute, models["eps"], conditions, conds[""], "perp-neg"))

    below, there, above = at(-3.001), at(-3.0), at(-2.999)
    assert (there - above).abs().max() < 0.05
    assert (below - above).abs().max() < 0.1
