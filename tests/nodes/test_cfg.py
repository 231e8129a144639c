"""CFG Combiner and CFG Patch in the host, in process: the host's bits where they do nothing, one picture of both."""

import pytest
import torch
from cfg_sampling import (
    METHODS,
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
KINDS = ["eps", "v", "flow"]
NEUTRAL = {
    "rescale": {"phi": 0.0},
    "mimic threshold": {"mimic_scale": 3.0, "phi": 0.0},
    "APG": {"eta": 1.0, "cap": 100.0, "momentum": 0.0},
    "CFG-Zero*": {"strength": 0.0, "zero_init": 0.0},
    "tangential (TCFG)": {"strength": 0.0},
    "frequency (FDG)": {"low": 1.0, "high": 1.0},
    "perp-neg": {"strength": 0.0},
    "magnitude-aware (MAMBO-G)": {"alpha": 0.0},
    "history (HiGS)": {"strength": 0.0, "memory": 0.6},
    "adaptive skip": {"threshold": 1.0},
}


@pytest.fixture(scope="module")
def models(pack_nodes):
    return class_models(pack_nodes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("cfg", [1.0, 4.5, 8.0])
def test_constant_cfg_has_the_hosts_bits(execute, models, conds, kind, batch, cfg):
    model, noise = models[kind], start(batch)
    host = ksampler(model, conds["star"], conds[""], cfg, noise=noise)
    combined = guided(combiner(execute, model, [condition(execute, conds["star"], cfg)], conds[""]), noise=noise)
    patched = ksampler(patch(execute, model, scale=cfg), conds["star"], conds[""], 3.0, noise=noise)
    assert torch.equal(host, combined)
    assert torch.equal(host, patched)


@pytest.mark.parametrize("name", NEUTRAL)
@pytest.mark.parametrize("kind", KINDS)
def test_neutral_settings_have_the_hosts_bits(execute, models, conds, name, kind):
    model = models[kind]
    host = ksampler(model, conds["star"], conds[""], 4.5)
    patched = ksampler(patch(execute, model, name, settings=NEUTRAL[name]), conds["star"], conds[""], 4.5)
    conditions = [condition(execute, conds["star"], 4.5)]
    combined = guided(combiner(execute, model, conditions, conds[""], name, NEUTRAL[name]))
    assert torch.equal(host, patched)
    assert torch.equal(host, combined)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_patch_and_combiner_make_the_same_picture(execute, models, conds, kind, name):
    patched = ksampler(patch(execute, models[kind], name), conds["star"], conds[""], 4.5)
    combined = guided(combiner(execute, models[kind], [condition(execute, conds["star"], 4.5)], conds[""], name))
    assert torch.isfinite(patched).all()
    assert torch.equal(patched, combined)


@pytest.mark.parametrize("name", METHODS)
def test_each_image_of_a_batch_equals_itself_alone_after_a_step(execute, models, conds, name):
    noise = start(4)
    level = torch.tensor([0.5, 0.0])
    model = patch(execute, models["eps"], name)
    whole = ksampler(model, conds["star"], conds[""], 4.5, noise=noise, sigmas=level)
    for k in (0, 3):
        alone = ksampler(model, conds["star"], conds[""], 4.5, noise=noise[k : k + 1], sigmas=level)
        assert (whole[k : k + 1] - alone).abs().max() < 1e-5 * whole.abs().max()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_works_at_cfg_1_without_a_negative(execute, models, conds, name):
    if name == "CFG++":  # sets the scale itself
        with pytest.raises(ValueError, match="negative"):
            combiner(execute, models["eps"], [condition(execute, conds["star"], 1.0)], name=name)
        return
    result = guided(combiner(execute, models["eps"], [condition(execute, conds["star"], 1.0)], name=name))
    plain = ksampler(models["eps"], conds["star"], conds[""], 1.0)
    changes_results = name in ("dynamic threshold", "history (HiGS)")
    assert changes_results or (result - plain).abs().max() < 1e-4


@pytest.mark.parametrize("shape", [(2, 3, 3, 32, 32), (2, 3, 5, 32, 32)])
@pytest.mark.parametrize("name", METHODS)
def test_video_latents_are_guided_frame_by_frame_or_as_a_whole(execute, models, conds, name, shape):
    """A stand-in network takes five axes: it answers with a mix of its input and the class."""
    model = unclamped(models["eps"])

    def network(apply, arguments):
        classes = arguments["c"]["y"].float().view(-1, 1, 1, 1, 1)
        return 0.3 * arguments["input"] + 0.01 * classes

    model.set_model_unet_function_wrapper(network)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    level = torch.tensor([2.0, 0.5, 0.0])
    result = guided(
        combiner(execute, model, [condition(execute, conds["star"], 3.0)], conds[""], name), noise=noise, sigmas=level
    )
    assert result.shape == noise.shape
    assert torch.isfinite(result).all()


def test_methods_of_several_patches_act_in_the_published_order(execute, models, conds):
    first = patch(execute, patch(execute, models["eps"], "rescale"), "APG")
    second = patch(execute, patch(execute, models["eps"], "APG"), "rescale")
    a, b = (ksampler(model, conds["star"], conds[""], 4.5) for model in (first, second))
    assert torch.equal(a, b)


def test_momentum_starts_anew_in_every_run(execute, models, conds):
    model = patch(execute, models["eps"], "APG")
    first = ksampler(model, conds["star"], conds[""], 4.5)
    assert torch.equal(first, ksampler(model, conds["star"], conds[""], 4.5))
