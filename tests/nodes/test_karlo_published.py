"""Karlo's golden trajectories inside the host, and what its decoder and super-resolution are told."""

from functools import cache, partial

import golden_files
import karlo_golden
import pytest
import torch
from networks import Networks, seeded
from published_on_host import respaced, sampled

from pack.guidance.sampling import fixed_small, sample_ddpm

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def load(pack_nodes):
    """MODEL of one of the golden networks."""
    from conftest import run_node

    @cache
    def model(part):
        name = karlo_golden.stored(part, f"published_{part}.safetensors")
        return run_node(pack_nodes, "Guidance_LoadModel", model_name=name)[0]

    return model


@pytest.fixture(scope="module")
def run():
    return karlo_golden.Published()


def text(run, rows):
    from pack.nodes.host.pixel.states import Read, states_conditioning

    states, pooled, mask = (run.golden[f"text.{part}"][rows] for part in karlo_golden.PARTS)
    return states_conditioning(Read(states, mask.bool(), pooled), "CLIP")


class Seen:
    """A CLIP_VISION_OUTPUT."""

    def __init__(self, image_embeds):
        self.image_embeds = image_embeds


def test_the_decoder_gives_the_published_trajectory(load, run, execute):
    """Each picture has its text and its embedding, which the node makes of one output."""
    model, half = load("karlo_decoder"), slice(0, run.half)
    given = {"model": model, "conditioning": text(run, half), "clip_vision_output": Seen(run.golden["image_embedding"])}
    (positive,) = execute("Guidance_ImageEmbedConditioning", **given)
    start, sigmas = run.golden["x_T.doubled"][half], respaced(execute, model, run.arguments["respacing"])
    negative = text(run, slice(run.half, None))
    final = sampled(model, positive, negative, run.arguments["cfg_scale"], start, sigmas, run.noise, sample_ddpm)
    assert golden_files.relative_error(final, run.golden["cfg.ddpm.final"]) < 1e-3


def test_the_super_resolution_gives_the_published_trajectory(load, run, execute):
    """Its last step is made by another network; no text, no CFG, fixed small variance."""
    from pack.nodes.host.pixel.small import with_picture

    model = load("karlo_upsampler")
    (nothing,) = execute("Guidance_ClassConditioning", model=model, class_label="")
    positive, loop = with_picture(nothing, run.golden["sr.low_res"]), partial(sample_ddpm, variance=fixed_small)
    sigmas = respaced(execute, model, 7)
    final = sampled(model, positive, None, 1.0, run.golden["sr.x_T"], sigmas, run.large_noise, loop)
    assert golden_files.relative_error(final, run.golden["sr.ddpm.final"]) < 1e-3


@pytest.fixture(scope="module")
def clip(comfy):
    """A CLIP of the decoder's width."""
    from clip_towers import clip_of

    return clip_of(24)


def drawn(model, positive, size=2, cfg=1.0, negative=None):
    """Two steps; picture i has noise of its own."""
    import comfy.sample

    noise = torch.cat([seeded(1, 3, 16, 16, seed=k) for k in range(size)])
    given = (positive, negative or positive, torch.zeros_like(noise))
    with torch.inference_mode():
        return comfy.sample.sample(model, noise, 2, cfg, "euler", "normal", *given, disable_pbar=True, seed=1)


def test_each_picture_of_a_batch_draws_its_own_embedding(load, execute, clip):
    model, embeds = load("karlo_decoder"), seeded(2, 24)
    (told,) = execute("Guidance_TextConditioning", model=model, text="", clip=clip)
    given = {"model": model, "conditioning": told}
    both, second = (
        execute("Guidance_ImageEmbedConditioning", **given, clip_vision_output=Seen(rows))[0]
        for rows in (embeds, embeds[1:])
    )
    pictures, others = drawn(model, both), drawn(model, second)
    torch.testing.assert_close(pictures[1:], others[1:], atol=1e-4, rtol=1e-4)
    assert (pictures[0] - others[0]).abs().max() > 0.1


def test_strength_0_is_the_null_to_the_bit(load, execute, clip):
    model = load("karlo_decoder")
    (told,) = execute("Guidance_TextConditioning", model=model, text="a corgi", clip=clip)
    given = {"model": model, "conditioning": told, "clip_vision_output": Seen(seeded(1, 24))}
    (off,) = execute("Guidance_ImageEmbedConditioning", **given, strength=0.0)
    assert drawn(model, off).equal(drawn(model, told))


def test_a_text_is_read_behind_the_last_norm_and_masked_behind_its_end(load, execute, clip):
    from pack.nodes.host.pixel.towers import read_clip

    tower = clip.cond_stage_model.clip_l
    tower.set_clip_options({"layer": -2})  # another node's choice, which the tower forgets
    read, empty = read_clip(clip, "a red dog", 24), read_clip(clip, "", 24)
    assert read.states.shape == (1, 77, 24) and read.pooled.shape == (1, 24)
    assert read.mask.sum() == 5 and empty.mask.sum() == 2  # with start and end
    norm = tower.transformer.text_model.final_layer_norm
    seen = (read.states - norm.bias) / norm.weight
    assert seen.mean(-1).abs().max() < 1e-3 and (seen.var(-1, correction=0) - 1).abs().max() < 1e-2


def refused(execute, match, node, **given):
    with pytest.raises(ValueError, match=match):
        execute(node, **given)


def test_what_does_not_fit_is_refused_before_a_run(load, execute, clip, models):
    decoder, unet = load("karlo_decoder"), models["scenes_unet"][0]
    (told,) = execute("Guidance_TextConditioning", model=decoder, text="a corgi", clip=clip)
    embed = partial(refused, execute, node="Guidance_ImageEmbedConditioning", conditioning=told)
    embed(r"of 16 numbers came.*of 24.*'clip_vision_output'", model=decoder, clip_vision_output=Seen(seeded(1, 16)))
    embed(r"an unCLIP decoder.*'model'", model=unet, clip_vision_output=Seen(seeded(1, 24)))
    read = partial(refused, execute, node="Guidance_TextConditioning", text="a corgi")
    read(r"CLIP reads the texts.*clip_l.*'clip'", model=decoder)
    read(
        r"the model was made with embeddings of 24 numbers.*have 16.*'clip'", model=decoder, clip=Networks(execute).clip
    )
    read(r"a text-conditional model.*'model'", model=unet)


def test_what_does_not_fit_is_refused_at_the_sampler(load, execute, clip, models):
    from nodes import ConditioningZeroOut

    decoder, upsampler, unet = load("karlo_decoder"), load("karlo_upsampler"), models["scenes_unet"][0]
    (told,) = execute("Guidance_TextConditioning", model=decoder, text="a corgi", clip=clip)
    given = {"model": decoder, "conditioning": told, "clip_vision_output": Seen(seeded(3, 24))}
    (three,) = execute("Guidance_ImageEmbedConditioning", **given)
    (nothing,) = execute("Guidance_ClassConditioning", model=unet, class_label="")
    cases = [
        (decoder, nothing, "what CLIP read of a text, and a CONDITIONING without it came"),
        (decoder, ConditioningZeroOut().zero_out(told)[0], "the text was emptied"),
        (decoder, three, "3 image embeddings came for a batch of 2"),
        (upsampler, nothing, "enlarges a small picture, and none was given"),
        (unet, told, "Text Conditioning of another model"),
        (unet, [[nothing[0][0], {**nothing[0][1], "guidance_image_embeds": (seeded(1, 24), 1.0)}]], "is for unCLIP"),
    ]
    for model, conditioning, match in cases:
        with pytest.raises(ValueError, match=match):
            drawn(model, conditioning)


def test_the_super_resolution_has_no_h_and_says_so(load, execute):
    from pack.nodes.host.pixel.small import with_picture

    model = load("karlo_upsampler").clone()
    (nothing,) = execute("Guidance_ClassConditioning", model=model, class_label="")
    model.model_options["transformer_options"] = {"guidance_halves": {}}
    with pytest.raises(ValueError, match="two networks in turn"):
        drawn(model, with_picture(nothing, seeded(1, 3, 8, 8)))
