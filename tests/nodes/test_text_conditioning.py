"""Text, Inpaint and Upscale Conditioning of text-conditional models: what they are told, and what is refused."""

from functools import cache

import glide_golden
import pytest
import torch

pytestmark = pytest.mark.host
SIDE = 16


@pytest.fixture(scope="module")
def load(pack_nodes):
    from conftest import run_node

    @cache
    def model(part):
        name = glide_golden.stored(part, f"told_{part}safetensors")
        return run_node(pack_nodes, "Guidance_LoadModel", model_name=name)[0]

    return model


@pytest.fixture
def text(execute, load):
    return lambda words, part="base.": execute("Guidance_TextConditioning", model=load(part), text=words)[0]


def drawn(model, positive, negative=None, cfg=1.0, count=2, side=SIDE):
    """The host's euler, two steps; picture i has noise of its own."""
    import comfy.sample

    noise = torch.stack([torch.randn(3, side, side, generator=torch.Generator().manual_seed(k)) for k in range(count)])
    with torch.inference_mode():
        return comfy.sample.sample(
            model,
            noise,
            2,
            cfg,
            "euler",
            "normal",
            positive,
            negative or positive,
            torch.zeros_like(noise),
            disable_pbar=True,
            seed=1,
        )


def picture(count=1, side=SIDE):
    return torch.rand(count, side, side, 3, generator=torch.Generator().manual_seed(4))


def left_half(side=SIDE):
    mask = torch.zeros(1, side, side)
    mask[..., : side // 2] = 1
    return mask


def test_texts_differ_and_an_empty_one_is_the_null_that_zero_out_makes(load, text):
    from nodes import ConditioningZeroOut

    (zeroed,) = ConditioningZeroOut().zero_out(text("a corgi"))
    model = load("base.")
    empty = drawn(model, text(""))
    assert drawn(model, zeroed).equal(empty)
    assert not drawn(model, text("a corgi")).equal(empty)


def test_cfg_at_1_is_the_text_alone_and_a_picture_of_a_batch_is_itself_alone(load, text):
    model, told = load("base."), text("a corgi")
    together = drawn(model, told, text(""), cfg=1.0)
    assert together.equal(drawn(model, told))
    torch.testing.assert_close(drawn(model, told, count=1), together[:1], atol=1e-4, rtol=1e-4)
    assert not drawn(model, told, text(""), cfg=3.0).equal(together)


def test_what_of_a_long_text_is_cut_is_said(execute, pack_nodes, load):
    with torch.inference_mode():
        output = (
            pack_nodes["Guidance_TextConditioning"]
            .PREPARE_CLASS_CLONE(None)
            .execute(model=load("base."), text="one two three four five six seven eight nine ten eleven twelve red dog")
        )
    assert "14 tokens, and the model reads 12; cut off: ' red dog'" in output.ui["text"][0]
    assert output.args[0][0][0].shape == (1, 12, 2)


def test_inpainting_keeps_black_parts_to_the_bit_of_their_values(execute, load, text):
    image = picture()
    told = [
        execute("Guidance_InpaintConditioning", conditioning=side, image=image, mask=left_half())[0]
        for side in (text("a corgi", "inpaint."), text("", "inpaint."))
    ]
    out = drawn(load("inpaint."), *told, cfg=3.0)
    wanted = image[..., SIDE // 2 :, :].movedim(-1, 1) * 2 - 1
    torch.testing.assert_close(out[..., SIDE // 2 :], wanted.expand(2, -1, -1, -1), atol=2e-6, rtol=0)
    assert (out[..., : SIDE // 2] - out.flip(0)[..., : SIDE // 2]).abs().max() > 0.01


def test_a_small_picture_is_rounded_to_8_bits(execute, text):
    image = picture(side=8)
    (told,) = execute("Guidance_UpscaleConditioning", conditioning=text("", "upsample."), image=image)
    eight = told[0][1]["pooled_output"][:, :3]
    bytes_ = (eight + 1) * 127.5
    torch.testing.assert_close(bytes_, bytes_.round(), atol=1e-4, rtol=0)
    assert (eight - (image.movedim(-1, 1) * 2 - 1)).abs().max() <= 1 / 255 + 1e-6


def inpaint(execute, text, **given):
    defaults = {"image": picture(), "mask": left_half()}
    return execute("Guidance_InpaintConditioning", conditioning=text("", "inpaint."), **{**defaults, **given})[0]


def joined(text):
    from nodes import ConditioningConcat

    return ConditioningConcat().concat(text("a"), text("b"))[0]


def mixed(text):
    from nodes import ConditioningAverage

    return ConditioningAverage().addWeighted(text("a corgi"), text("a cat"), 0.5)[0]


REFUSED = {
    "an upsampler as a base": ("upsample.", lambda e, t: t("a"), "enlarges a small picture, and none was given"),
    "two texts joined": ("base.", lambda e, t: joined(t), "two texts were joined"),
    "two texts mixed": ("base.", lambda e, t: mixed(t), "nothing between tokens"),
    "another model's conditioning": ("base.", lambda e, t: [[torch.ones(1, 77, 8), {}]], "connect this model to Text"),
    "a picture to fill for a base": ("base.", lambda e, t: inpaint(e, t), "this model is none"),
    "a picture of another size": (
        "inpaint.",
        lambda e, t: inpaint(e, t, image=picture(side=24)),
        "the image of Inpaint Conditioning is 24 x 24, and the latent 16 x 16",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_model_can_not_be_told_is_refused_in_words(execute, load, text, case):
    part, told, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        drawn(load(part), told(execute, text))


def test_nodes_refuse_what_they_can_see(execute, text, models):
    with pytest.raises(ValueError, match="^a text-conditional model.*'model' of Text Conditioning"):
        execute("Guidance_TextConditioning", model=models["scenes_unet"][0], text="a")
    with pytest.raises(ValueError, match="^it is black everywhere.*'mask' of Inpaint Conditioning"):
        inpaint(execute, text, mask=torch.zeros(1, SIDE, SIDE))
    with pytest.raises(ValueError, match=r"2 masks came for 1 pictures.*'mask'"):
        inpaint(execute, text, mask=torch.ones(2, SIDE, SIDE))
    with pytest.raises(ValueError, match="reads no texts that way"):
        drawn(models["scenes_unet"][0], text("a"), side=32)


def test_fast27_is_the_published_list():
    """GLIDE's own code printed it: sections of 10, 10, 3, 2 and 2, and 997 for 999."""
    from pack.guidance.sampling import respaced

    kept, sections = respaced("fast27"), respaced("10,10,3,2,2")
    assert len(kept) == 27 and kept[:-1] == sections[:-1]
    assert (sections[-1], kept[-1]) == (999, 997)
