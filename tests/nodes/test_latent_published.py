"""Latent diffusion's golden numbers inside the host: one checkpoint as MODEL and VAE, classes by their token."""

from functools import partial

import golden_files
import ldm_golden
import pytest
import torch
from networks import seeded
from published_on_host import sampled

from pack.guidance.sampling import sample_ddim

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def loaded(pack_nodes):
    """(MODEL, VAE)."""
    from conftest import run_node

    return run_node(pack_nodes, "Guidance_LoadModel", model_name=ldm_golden.stored("golden_ldm.ckpt"))


@pytest.fixture
def label(loaded, execute):
    return lambda name="": execute("Guidance_ClassConditioning", model=loaded[0], class_label=name)[0]


@pytest.mark.parametrize(("name", "eta"), [("ddim_eta0", 0.0), ("ddim_eta1", 1.0)])
def test_the_hosts_sampling_gives_the_published_trajectory(loaded, label, name, eta):
    """It ends at the chain's first level; what is left of its noise there is taken away by a factor alone."""
    arguments, golden = golden_files.load(ldm_golden.CASE)
    table = loaded[0].get_model_object("model_sampling").sigmas
    sigmas = torch.cat([table[golden["timesteps"]].flip(0), table[:1]]).cpu()
    classes = "\n".join(str(int(y)) for y in golden["y"][:2])

    def noise(index):
        return golden_files.draw(tuple(golden["x_T"].shape), arguments["seed"] + 1000 + index)

    loop = partial(sample_ddim, eta=eta)
    final = sampled(loaded[0], label(classes), label(), arguments["cfg_scale"], golden["x_T"], sigmas, noise, loop)
    found = final / (1 + sigmas[-1] ** 2) ** 0.5
    assert golden_files.relative_error(found, golden[name]) < 1e-3


def test_the_vae_encodes_and_decodes_as_published(loaded):
    _, golden = golden_files.load(ldm_golden.CASE)
    network = loaded[1].first_stage_model
    with torch.no_grad():
        assert golden_files.relative_error(network.encode(golden["vq.image"]), golden["vq.encoded"]) < 1e-4
        assert golden_files.relative_error(network.decode(golden["vq.encoded"]), golden["vq.decoded"]) < 1e-4
        assert golden_files.relative_error(network.decode(golden["ddim_eta0"]), golden["decoded"]) < 1e-4


def test_gradients_pass_the_nearest_codes(loaded):
    z = seeded(1, 3, 8, 8).requires_grad_(True)
    from pack.nodes.host.gradients import differentiable

    network = loaded[1].first_stage_model
    with torch.inference_mode(False), torch.enable_grad(), differentiable(network, in_place=True):
        (grad,) = torch.autograd.grad(network.decode(z).sum(), z)
    assert grad.isfinite().all() and grad.any()


def test_it_is_a_latent_model_whose_samples_are_not_clamped(loaded, label):
    import comfy.sample

    from nodes import VAEDecode
    from pack.nodes.host.model import is_pixel_model, latent_shape
    from pack.nodes.host.pixel_model import clamp

    model, vae = loaded
    assert not is_pixel_model(model) and latent_shape(model, 512) == (3, 64, 64)
    far = 5 * seeded(1, 3, 8, 8)
    assert clamp({"model": model.model, "denoised": far}) is far
    noise = seeded(2, 3, 8, 8)
    given = (label("class 1"), label(), torch.zeros_like(noise))
    with torch.inference_mode():
        drawn = comfy.sample.sample(model, noise, 2, 3.0, "euler", "normal", *given, disable_pbar=True, seed=1)
        (image,) = VAEDecode().decode(vae, {"samples": drawn})
    assert image.shape == (2, 32, 32, 3) and image.isfinite().all()


def test_each_picture_has_its_class_and_no_class_is_the_last_row(loaded, label):
    import comfy.sample

    model, noise = loaded[0], seeded(2, 3, 8, 8)

    def drawn(conditioning, noise=noise):
        given = (conditioning, conditioning, torch.zeros_like(noise))
        with torch.inference_mode():
            return comfy.sample.sample(model, noise, 2, 1.0, "euler", "normal", *given, disable_pbar=True, seed=1)

    both = drawn(label("1\n2"))
    torch.testing.assert_close(drawn(label("2"), noise[1:]), both[1:], atol=1e-4, rtol=1e-4)
    assert not drawn(label("1")).equal(drawn(label()))


def test_another_autoencoder_is_refused_in_words(execute):
    from pathlib import Path

    import folder_paths

    state = ldm_golden.checkpoint() | ldm_golden.first_stage()
    state["first_stage_model.encoder.down.1.attn.0.q.weight"] = torch.zeros(64, 64, 1, 1)
    folder = Path(folder_paths.get_folder_paths("guidance_models")[0])
    torch.save({"state_dict": state}, folder / "odd_ldm.ckpt")
    folder_paths.filename_list_cache.clear()
    with pytest.raises(ValueError, match=r"the autoencoder in odd_ldm.ckpt is built as none.*'model_name'"):
        execute("Guidance_LoadModel", model_name="odd_ldm.ckpt")
