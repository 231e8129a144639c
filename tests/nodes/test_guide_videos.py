"""Guides on videos: a look decodes a stated number of neighbouring frames, and all have their turn."""

from functools import partial

import pytest
import torch
from conftest import run_node
from features import guide
from networks import Networks, filled, seeded

pytestmark = pytest.mark.host
FRAMES, SIDE = 5, 4


@pytest.fixture(scope="module")
def networks(pack_nodes):
    return Networks(partial(run_node, pack_nodes))


@pytest.fixture(scope="module")
def wan(comfy):
    """MODEL of Wan's shape, narrow."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    shape = {"dim": 24, "ffn_dim": 32, "freq_dim": 16, "text_dim": 16, "num_heads": 2, "num_layers": 1}
    kind = {"image_model": "wan2.1", "model_type": "t2v"}
    config = comfy.supported_models.WAN21_T2V({**kind, **shape})
    config.set_inference_dtype(torch.float32, None)
    cpu = torch.device("cpu")
    model = comfy.model_base.WAN21(config, device=cpu)
    filled(model.diffusion_model, size=0.1).requires_grad_(False)
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


@pytest.fixture(scope="module")
def wan_vae(comfy):
    """VAE of Wan's shape, narrow: its decoder looks from one frame to the next."""
    import comfy.sd
    from comfy.ldm.wan.vae import WanVAE

    return comfy.sd.VAE(sd=filled(WanVAE(dim=4, z_dim=16, temperal_downsample=[False, True, True])).state_dict())


@pytest.fixture(scope="module")
def tiny_vae(comfy):
    """The host's TAESD, which decodes frames one by one."""
    import comfy.sd
    from comfy.taesd.taesd import TAESD

    return comfy.sd.VAE(sd=filled(TAESD(latent_channels=16), size=0.05).state_dict())


def sample(model, steps=6):
    import comfy.sample

    noise = seeded(1, 16, FRAMES, SIDE, SIDE, seed=1)
    words = [[seeded(1, 3, 16, seed=2), {}]]
    with torch.inference_mode():
        options = {"seed": 1, "disable_pbar": True}
        return comfy.sample.sample(
            model, noise, steps, 1.0, "euler", "normal", words, words, torch.zeros_like(noise), **options
        )


def guided(networks, model, vae, **options):
    given = {"model": model, "guides": guide(networks, "Text"), "vae": vae, "gradient": "at denoised"}
    return networks.execute("Guidance_ApplyGuides", **given, **options)[0]


@pytest.fixture(params=["wan_vae", "tiny_vae"])
def vae(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def decoded(vae, monkeypatch):
    """How many latent frames each call of the decoder has."""
    counts, decode = [], vae.first_stage_model.decode

    def counted(z, *args, **kwargs):
        counts.append(z.shape[2] if z.ndim == 5 else len(z))
        return decode(z, *args, **kwargs)

    monkeypatch.setattr(vae.first_stage_model, "decode", counted)
    return counts


def test_a_clip_no_longer_than_the_number_is_decoded_as_a_whole(networks, wan, vae, decoded):
    sample(guided(networks, wan, vae, frames=FRAMES), steps=2)
    assert decoded == [FRAMES] * 2


def test_a_clip_decoded_as_a_whole_is_what_it_was_bit_by_bit(wan, vae):
    from pack.guidance.views import turn
    from pack.nodes.host.pictures import Decoder

    z, decoder = seeded(2, 16, FRAMES, SIDE, SIDE), Decoder(wan, vae)
    assert torch.equal(decoder.pixels(z, 32, turn(FRAMES, 100, 7)), decoder.pixels(z, 32))


def test_a_look_decodes_no_more_frames_than_stated(networks, wan, vae, decoded):
    sample(guided(networks, wan, vae, frames=2), steps=3)
    assert decoded == [2] * 3


def test_a_step_moves_the_frames_that_were_looked_at_alone(networks, wan, wan_vae):
    plain, steered = (sample(model, steps=1) for model in (wan, guided(networks, wan, wan_vae, frames=2)))
    assert [not torch.equal(plain[:, :, k], steered[:, :, k]) for k in range(FRAMES)] == [True] * 2 + [False] * 3


@pytest.mark.parametrize("every, starts", [(1, [0, 2, 3, 0, 2, 3]), (2, [0, 2, 3])])
def test_each_look_of_a_run_has_the_next_frames(networks, wan, tiny_vae, monkeypatch, every, starts):
    from pack.nodes.host.pictures import Decoder

    found, pixels = [], Decoder.pixels

    def noted(decoder, z, smallest, frames):
        found.append(frames.start)
        return pixels(decoder, z, smallest, frames)

    monkeypatch.setattr(Decoder, "pixels", noted)
    sample(guided(networks, wan, tiny_vae, frames=2, every=every))
    assert found == starts


def test_a_frame_that_is_not_looked_at_has_gradient_0(wan, vae):
    from pack.nodes.host.gradients import autograd_on
    from pack.nodes.host.pictures import Decoder

    with autograd_on():
        z = seeded(2, 16, FRAMES, SIDE, SIDE).requires_grad_(True)
        pictures = Decoder(wan, vae).pixels(z, 32, range(1, 3))
        (grad,) = torch.autograd.grad((pictures**2).sum(), z)
    sizes = grad.abs().amax((0, 1, 3, 4))
    assert (sizes > 0).tolist() == [False, True, True, False, False]
    assert torch.equal(pictures, Decoder(wan, vae).pixels(z[:, :, 1:3].detach(), 32))


def test_the_room_asked_for_is_that_of_the_frames_of_a_look(networks, wan, vae):
    from pack.nodes.host.guides.application import activations
    from pack.nodes.host.guides.run import applications

    def room(frames, length):
        (application,) = applications(guided(networks, wan, vae, frames=frames))
        return activations(application, wan, [1, 16, length, SIDE, SIDE])

    one = room(1, 21)
    pictures = 1 if vae.latent_dim == 2 else 4
    assert one > 0 and room(3, 21) == room(3, 400) == (1 + 2 * pictures) * one == room(100, 3)
