"""How guides get pixels of each latent format of the host: its tiny decoder by name, else the VAE, else words."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from families.decoders import FILES
from hosts import hosts_own, version
from networks import filled, seeded

pytestmark = pytest.mark.host
FORMATS = {
    "taesd_decoder": "SD15",
    "taesdxl_decoder": "SDXL",
    "taesd3_decoder": "SD3",
    "taef1_decoder": "Flux",
    "taef2_decoder": "Flux2",
    "taehv": "HunyuanVideo",
    "lighttaew2_1": "Wan21",
    "lighttaew2_2": "Wan22",
    "lighttaehy1_5": "HunyuanVideo15",
}
VIDEOS = ["taehv", "lighttaew2_1", "lighttaew2_2", "lighttaehy1_5"]
SIDE, FRAMES = 3, 2


def model_of(name):
    """A MODEL that has nothing but the latents of a format, made in a node as a loader makes it."""

    with torch.inference_mode():
        latent_format = hosts_own("comfy.latent_formats", FORMATS[name])()
    if latent_format.taesd_decoder_name != name:
        pytest.skip(f"ComfyUI {version()} names no tiny decoder for these latents")
    inner = SimpleNamespace(latent_format=latent_format, process_latent_out=latent_format.process_out)
    return SimpleNamespace(model=inner)


def state_of(name, channels):
    """Random weights of the host's network for that name, whose pictures are nearly grey: nothing is clamped.

    The host knows HunyuanVideo's file by its half precision.
    """
    from comfy.taesd.taehv import TAEHV
    from comfy.taesd.taesd import TAESD

    video = name in VIDEOS
    network = filled((TAEHV if video else TAESD)(latent_channels=channels), size=0.05)
    decoder = network.decoder if video else network.taesd_decoder
    with torch.inference_mode():
        decoder[-1].weight.mul_(1e-3)
        decoder[-1].bias.fill_(0.5)
    state = (network if video else decoder).state_dict()
    dtype = torch.float16 if name == "taehv" else torch.float32
    return {key: value.to(dtype).clone().contiguous() for key, value in state.items()}


@pytest.fixture
def decoder_file(comfy, tmp_path, monkeypatch):
    """Puts a tiny decoder into models/vae_approx."""
    import folder_paths
    from safetensors.torch import save_file

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "vae_approx", ([str(tmp_path)], {".safetensors"}))

    def put(name):
        channels = model_of(name).model.latent_format.latent_channels
        save_file(state_of(name, channels), tmp_path / f"{name}.safetensors")
        folder_paths.filename_list_cache.pop("vae_approx", None)
        return Path(tmp_path / f"{name}.safetensors")

    return put


def latents(model):
    """A clean sample in the model's space."""
    latent_format = model.model.latent_format
    video = [FRAMES] if latent_format.latent_dimensions == 3 else []
    return seeded(1, latent_format.latent_channels, *video, SIDE, SIDE, seed=1)


def chosen(model, vae=None):
    from pack.nodes.host.pictures import choose_decoder

    with torch.inference_mode():
        return choose_decoder(model, vae, None, True)


def test_every_tiny_decoder_that_the_host_names_is_known(comfy):
    import comfy.latent_formats

    kinds = [kind for kind in vars(comfy.latent_formats).values() if isinstance(kind, type)]
    named = {kind().taesd_decoder_name for kind in kinds if issubclass(kind, comfy.latent_formats.LatentFormat)}
    assert named - {None} <= set(FORMATS) == set(FILES)


@pytest.mark.parametrize("name", FORMATS)
def test_the_tiny_decoder_of_the_latents_is_found_by_its_name(decoder_file, name):
    from pack.nodes.host.pictures import Decoder

    decoder_file(name)
    model = model_of(name)
    vae, said = chosen(model)
    assert said == f"{name}.safetensors in models/vae_approx"
    z = latents(model)
    pictures = Decoder(model, vae).pixels(z, 1000)
    ratio = model.model.latent_format.spacial_downscale_ratio
    count = 4 * FRAMES - 3 if z.ndim == 5 else 1
    assert pictures.shape == (count, 3, SIDE * ratio, SIDE * ratio)


@pytest.mark.parametrize("name", VIDEOS)
def test_a_tiny_decoder_of_videos_shows_what_load_vae_and_vae_decode_show(decoder_file, comfy, name):
    import comfy.sd
    import comfy.utils

    from pack.nodes.host.pictures import Decoder

    path = decoder_file(name)
    model = model_of(name)
    vae, _ = chosen(model)
    z = latents(model)
    with torch.inference_mode():
        host = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path)), dtype=torch.float32)
        expected = host.decode(model.model.process_latent_out(z)).flatten(0, 1).movedim(-1, 1)
    found = (Decoder(model, vae).pixels(z, 1000) + 1) / 2
    torch.testing.assert_close(found, expected.clamp(0, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", FORMATS)
def test_the_gradient_through_a_tiny_decoder_is_that_of_all_frames_at_once_in_plain_torch(decoder_file, name):
    """TAEHV as the host runs it, frame after frame, has none from one frame to those before."""
    from pack.nodes.host.gradients import autograd_on, make_differentiable
    from pack.nodes.host.pictures import Decoder

    decoder_file(name)
    model = model_of(name)
    vae, _ = chosen(model)
    decoder, z = Decoder(model, vae), latents(model)
    wanted = seeded(*decoder.pixels(z, 1000).shape, seed=3)

    def gradient(draw):
        with autograd_on():
            leaf = z.clone().requires_grad_(True)
            return torch.autograd.grad((draw(leaf) * wanted).sum(), leaf)[0]

    found = gradient(lambda z: decoder.pixels(z, 1000))
    network = vae.first_stage_model
    make_differentiable(network)
    network.parallel = True

    def plain(z):
        if name not in VIDEOS:
            return network.decode(z)
        with torch.inference_mode(False):
            statistics = getattr(model.model.latent_format, "latents_std", torch.tensor(1.0)).clone()
        scale = model.model.latent_format.scale_factor
        pictures = network.decode(z * statistics / scale + shift(model)).movedim(2, 1).flatten(0, 1)
        return pictures if name == "lighttaehy1_5" else pictures * 2 - 1

    expected = gradient(plain)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def shift(model):
    mean = getattr(model.model.latent_format, "latents_mean", None)
    return 0.0 if mean is None else mean.clone()


@pytest.mark.parametrize("name", FORMATS)
def test_without_a_decoder_the_words_name_the_file_that_would_do(decoder_file, name):
    with pytest.raises(
        ValueError, match=rf"connect the VAE of the checkpoint, or put {name}\.safetensors into models/vae"
    ):
        chosen(model_of(name))


def test_the_vae_is_taken_where_the_tiny_decoder_is_not_there(decoder_file):
    vae = SimpleNamespace(latent_channels=16)
    assert chosen(model_of("lighttaew2_1"), vae) == (vae, "input vae")
    decoder_file("lighttaew2_1")
    assert chosen(model_of("lighttaew2_1"), vae)[1] == "lighttaew2_1.safetensors in models/vae_approx"


def test_a_picture_of_a_video_format_is_averaged_to_what_the_encoder_needs(comfy):
    """Qwen-Image's latents are videos of one frame; those of videos stay as they are."""
    from pack.nodes.host.pictures import Decoder

    seen = []

    class Network(torch.nn.Module):
        def decode(self, z):
            seen.append(tuple(z.shape))
            return z[:, :3]

    vae = SimpleNamespace(first_stage_model=Network(), patcher=SimpleNamespace(load_device=torch.device("cpu")))
    decoder = Decoder(model_of("lighttaew2_1"), vae)
    for frames in (1, 2):
        decoder.pixels(torch.zeros(1, 16, frames, 64, 96), 80)
    assert seen == [(1, 16, 1, 10, 15), (1, 16, 2, 64, 96)]
    assert [decoder.one(shape, 80) for shape in ((1, 16, 1, 64, 96), (1, 16, 2, 64, 96))] == [
        [1, 16, 1, 10, 10],
        [1, 16, 1, 64, 96],
    ]
