"""Wavelet VAE and Text Conditioning of the pack's small transformer, which the host loads."""

import pytest
import torch
from conftest import ROOT
from families.build import built
from hspace_scenes import refused

from pack.models.haar import analyse

pytestmark = pytest.mark.host
TEXT = "a striped yellow star on a blue background"


@pytest.fixture(scope="module")
def transformer(comfy):
    import comfy.sd

    return comfy.sd.load_diffusion_model(str(ROOT / "models/demo/diffusion_models/scenes_transformer.safetensors"))


@pytest.fixture
def vae(execute, transformer):
    return execute("Guidance_WaveletVAE", model=transformer)[0]


def pictures(*shape):
    return torch.rand(*shape, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("height, width", [(32, 32), (8, 20)])
def test_pictures_come_back_as_they_were(vae, height, width):
    images = pictures(3, height, width)
    latents = vae.encode(images)
    assert latents.shape == (3, 48, 1, height // 4, width // 4)
    assert (vae.decode(latents).reshape(images.shape) - images).abs().max() < 1e-6


def test_the_model_sees_two_levels_of_the_wavelet_transform(vae, transformer):
    images = pictures(2, 16, 16)
    seen = transformer.model.process_latent_in(vae.encode(images))
    wanted = analyse(analyse(2 * images.movedim(-1, 1) - 1))
    assert (seen[:, :, 0] - wanted).abs().max() < 1e-6


def test_frames_of_a_video_are_decoded_one_by_one(vae):
    latents = torch.randn(2, 48, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.1
    video = vae.decode(latents)
    frames = [vae.decode(latents[:, :, k : k + 1]) for k in range(3)]
    assert torch.equal(video, torch.cat(frames, dim=1)) and video.shape == (2, 3, 16, 16, 3)


def test_a_set_of_pictures_is_no_video_to_a_vae_that_would_make_it_one(execute, transformer, vae, encoder):
    """Of Discover HSpace: the same direction as by a VAE that takes each picture by itself."""
    (said,) = execute("Guidance_TextConditioning", model=transformer, text=TEXT, clip=encoder)
    sets = {"positive_images": pictures(3, 32, 32), "negative_images": 1 - pictures(2, 32, 32)}
    given = {"model": transformer, "method": "contrast", "positive": said, "vae": vae, "samples": 2, "steps": 2}
    found = []
    for alone in (True, False):
        vae.not_video = alone
        (edit,), *_ = execute("Guidance_DiscoverHSpace", **given, **sets, size=32, block=1)
        found.append(edit.tensors["delta_h"])
    assert torch.equal(*found) and found[0].abs().max() > 0


def test_tiles_make_the_same_pictures(vae):
    with torch.inference_mode():
        latents = vae.encode(pictures(1, 64, 64)).repeat(1, 1, 3, 1, 1)
        tiles = vae.decode_tiled(latents, tile_x=8, tile_y=8, overlap=2, tile_t=2, overlap_t=1)
        assert (tiles - vae.decode(latents)).abs().max() < 1e-6 and tiles.shape == (1, 3, 64, 64, 3)
        tiles = vae.encode_tiled(vae.decode(latents)[0, :1], tile_x=32, tile_y=32, overlap=8)
        assert (tiles - latents[:, :, :1]).abs().max() < 1e-5


@pytest.mark.parametrize("family, words", [("SD15", "SD15's, 4 channels"), ("WAN21_T2V", "Wan21's, 16 channels")])
def test_a_model_of_other_latents_is_refused(execute, family, words):
    model = built(family).model
    refused(
        lambda: execute("Guidance_WaveletVAE", model=model), "use the VAE that belongs to it", words, "input 'model'"
    )


# --- its texts


@pytest.mark.parametrize("text", [TEXT, ""])
def test_the_transformer_is_told_the_encoders_states_and_zeros_behind_their_end(execute, transformer, encoder, text):
    ((context, told),) = execute("Guidance_TextConditioning", model=transformer, text=text, clip=encoder)[0]
    with torch.inference_mode():
        states, _, mask = encoder.text_states(text)
    assert told == {} and torch.equal(context, states * mask[..., None])
    assert not context[0, int(mask.sum()) :].any() and bool(context.any()) == bool(text)


def test_a_transformer_of_another_texts_width_is_refused(execute, encoder):
    model = built("WAN21_T2V").model
    width = model.model.diffusion_model.text_dim
    refused(
        lambda: execute("Guidance_TextConditioning", model=model, text=TEXT, clip=encoder),
        f"embeddings of {width} numbers, and scenes_clip.safetensors has 64",
        "input 'clip'",
    )


def test_a_model_that_reads_no_such_states_is_refused(execute, encoder):
    model = built("Flux").model
    refused(
        lambda: execute("Guidance_TextConditioning", model=model, text=TEXT, clip=encoder),
        "a Flux doesn't read texts by one of the pack's encoders; use CLIP Text Encode",
    )


def test_without_an_encoder_the_transformer_is_refused(execute, transformer):
    refused(
        lambda: execute("Guidance_TextConditioning", model=transformer, text=TEXT),
        "a text-conditional model of Load Guidance Model is needed",
        "scenes_transformer needs Load Guidance Encoder with scenes_clip",
    )
