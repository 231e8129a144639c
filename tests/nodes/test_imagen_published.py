"""DeepFloyd IF's golden trajectories inside the host, and what its stages are told."""

from functools import cache, partial

import golden_files
import imagen_golden
import pytest
import torch
from networks import Networks, seeded
from published_on_host import respaced, sampled

from pack.guidance.sampling import sample_ddpm

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def load(pack_nodes):
    """MODEL of one of the golden stages."""
    from conftest import run_node

    @cache
    def model(stage):
        name = imagen_golden.stored(stage, f"published_if_{stage}.safetensors")
        return run_node(pack_nodes, "Guidance_LoadModel", model_name=name)[0]

    return model


@pytest.fixture(scope="module")
def clip(comfy):
    return Networks(None).t5


def told(states):
    from pack.nodes.host.pixel.states import Read, states_conditioning

    return states_conditioning(Read(states, torch.ones(states.shape[:2], dtype=torch.bool)), "T5")


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_stage_one_gives_the_published_trajectory(load, execute, kind):
    """CFG Patch thresholds before the sampler clamps, which then changes nothing."""
    run = imagen_golden.Published("one")
    cap = run.arguments["threshold_c"] if kind == "dynamic" else 1.0
    threshold = {"method": "dynamic threshold", "percentile": run.arguments["threshold_p"], "limit": cap}
    model = execute("Guidance_CFGPatch", model=load("one"), method=threshold)[0]
    positive, negative = (told(states) for states in run.texts)
    start, sigmas = run.golden["one.x_T.doubled"][: run.half], respaced(execute, model, run.arguments["respacing"])
    final = sampled(model, positive, negative, run.scale, start, sigmas, run.noise, sample_ddpm)
    assert golden_files.relative_error(final, run.golden[f"one.ddpm.{kind}"]) < 5e-3


def test_stage_two_gives_the_published_trajectory(load, execute, monkeypatch):
    """The noise on the small picture is drawn once, and the published one is put in its place."""
    from pack.nodes.host.pixel import small

    run = imagen_golden.Published("two")
    monkeypatch.setattr(small, "own_noise", lambda *_: run.golden["two.aug_noise.fixed"][: run.half])
    model = load("two")
    sides = [small.with_picture(told(states), run.golden["two.low_res"]) for states in run.texts]
    start, sigmas = run.golden["two.x_T.doubled"][: run.half], respaced(execute, model, run.arguments["two_respacing"])
    final = sampled(model, *sides, run.scale, start, sigmas, run.noise, sample_ddpm)
    assert golden_files.relative_error(final, run.golden["two.ddpm.fixed_aug"]) < 5e-3


def drawn(model, positive, size=2, side=16, cfg=1.0, negative=None):
    """Two steps; picture i has noise of its own."""
    import comfy.sample

    noise = torch.cat([seeded(1, 3, side, side, seed=k) for k in range(size)])
    given = (positive, negative or positive, torch.zeros_like(noise))
    with torch.inference_mode():
        return comfy.sample.sample(model, noise, 2, cfg, "euler", "normal", *given, disable_pbar=True, seed=1)


def test_the_noise_on_the_small_picture_is_the_seeds_and_each_pictures_own(load, execute, clip):
    model = load("two")
    (text,) = execute("Guidance_TextConditioning", model=model, text="a corgi", clip=clip)
    image = torch.rand(1, 8, 8, 3, generator=torch.Generator().manual_seed(1))
    given = {"conditioning": text, "image": image}
    upscale = partial(execute, "Guidance_UpscaleConditioning", **given)
    usual = drawn(model, upscale()[0], side=32)
    assert drawn(model, upscale(noise_augmentation=0.25)[0], side=32).equal(usual)
    assert not drawn(model, upscale(noise_augmentation=0.1)[0], side=32).equal(usual)
    assert not drawn(model, upscale(seed=1)[0], side=32).equal(usual)
    torch.testing.assert_close(drawn(model, upscale()[0], size=1, side=32), usual[:1], atol=1e-4, rtol=1e-4)


def test_all_rows_of_t5_are_seen_and_padding_is_not_seen_inside_it(clip):
    from pack.nodes.host.pixel.towers import read_t5

    tower = clip.cond_stage_model.t5xxl
    before = tower.enable_attention_masks
    (long, none), (short, _) = (read_t5(clip, "a dog", context, 48) for context in (7, 5))
    assert long.states.shape == (1, 7, 48) and long.mask.all() and none == 0
    torch.testing.assert_close(long.states[:, :5], short.states, atol=1e-5, rtol=1e-5)  # padding changed nothing
    cut, count = read_t5(clip, "one two three four five six seven", 7, 48)
    assert cut.states.shape == (1, 7, 48) and count > 0
    assert tower.enable_attention_masks == before


def test_captions_are_cleaned_and_what_vanishes_is_said(execute, pack_nodes, load, clip):
    (plain,), (odd,) = (
        execute("Guidance_TextConditioning", model=load("one"), text=text, clip=clip)
        for text in ("a corgi", "***A Corgi*** #12")
    )
    assert plain[0][0].equal(odd[0][0])
    node = pack_nodes["Guidance_TextConditioning"].PREPARE_CLASS_CLONE(None)
    with torch.inference_mode():
        output = node.execute(model=load("one"), text="猫", clip=clip)
    assert "nothing remains of '猫'" in output.ui["text"][0]


def test_what_does_not_fit_is_refused(load, execute, clip, models):
    from nodes import ConditioningZeroOut

    one, two, unet = load("one"), load("two"), models["scenes_unet"][0]
    for given, match in (
        ({"model": one}, r"T5 reads the texts.*t5xxl.*'clip'"),
        ({"model": one, "clip": Networks(execute).clip}, r"this CLIP has no T5.*'clip'"),
    ):
        with pytest.raises(ValueError, match=match):
            execute("Guidance_TextConditioning", text="a corgi", **given)
    (text,) = execute("Guidance_TextConditioning", model=one, text="a corgi", clip=clip)
    (nothing,) = execute("Guidance_ClassConditioning", model=unet, class_label="")
    image = torch.rand(1, 8, 8, 3)
    (small,) = execute("Guidance_UpscaleConditioning", conditioning=text, image=image)
    for model, conditioning, match in (
        (one, nothing, "what T5 read of a text, and a CONDITIONING without it came"),
        (one, ConditioningZeroOut().zero_out(text)[0], "the text was emptied, and T5 reads"),
        (one, small, "this model enlarges nothing"),
        (two, text, "enlarges a small picture, and none was given"),
    ):
        with pytest.raises(ValueError, match=match):
            drawn(model, conditioning)


def test_an_upsampler_without_noise_refuses_noise():
    from pack.models.architecture import Facts
    from pack.nodes.host.pixel.small import picture_in, with_picture

    ((embedding, extra),) = with_picture([[torch.zeros(1, 1, 2), {}]], seeded(1, 3, 8, 8), 0.1)
    with pytest.raises(ValueError, match=r"noise_augmentation is 0.1, and this upsampler is not told"):
        picture_in({"cross_attn": embedding, "noise": seeded(1, 3, 16, 16), **extra}, Facts(16))


def test_the_stage_can_be_told_and_only_ifs_has_one(load, execute):
    name = imagen_golden.stored("two", "told_if.safetensors")
    (model, _) = execute("Guidance_LoadModel", model_name=name, if_stage="first")
    config = model.model.diffusion_model.network.config
    assert (config.activate_once, config.residual_scale) == (False, 1.0)
    with pytest.raises(ValueError, match=r"only a U-Net of DeepFloyd's IF.*'if_stage'"):
        execute("Guidance_LoadModel", model_name="scenes_unet.safetensors", if_stage="second")
