"""Networks and loops of phizaz/diffae: encoder, decoder, latent prior, stochastic code and sampling."""

import golden_files
import pytest
import torch
from diffae_golden import Published

from pack.models.schedule import NoiseSchedule


@pytest.fixture(scope="module")
def run():
    return Published()


def test_the_kept_steps_and_both_schedules_are_the_published_ones(run):
    assert run.timesteps == run.golden["timestep_map"].tolist()
    for key, name in (("alphas_cumprod", "linear"), ("latent.alphas_cumprod", "const0.008")):
        kept = NoiseSchedule.named(name).alphas_cumprod[run.timesteps]
        torch.testing.assert_close(kept, run.golden[key], rtol=1e-12, atol=0)


def test_the_semantic_encoder_is_the_published_one(run):
    assert golden_files.relative_error(run.network.encoder(run.golden["image"]), run.golden["z_sem"]) < 2e-6


def test_the_decoders_forward_is_the_published_one(run):
    eps = run.network(run.golden["forward.x"], run.golden["forward.t"], run.golden["z_sem"])
    assert golden_files.relative_error(eps, run.golden["forward.out"]) < 1e-5


def test_the_code_matters_to_the_decoder(run):
    eps = run.network(run.golden["forward.x"], run.golden["forward.t"], run.golden["z_sem"].flip(0))
    assert golden_files.relative_error(eps, run.golden["forward.out"]) > 1e-2


def test_the_latent_priors_forward_is_the_published_one(run):
    eps = run.network.latent_net(run.golden["latent.forward.x"], run.golden["latent.forward.t"])
    assert golden_files.relative_error(eps, run.golden["latent.forward.out"]) < 2e-6


def test_the_stochastic_code_is_the_published_one(run):
    assert golden_files.relative_error(run.encode(), run.golden["x_T"]) < 5e-5


def test_decoding_the_stochastic_code_gives_the_published_reconstruction(run):
    assert golden_files.relative_error(run.decode(run.golden["x_T"]), run.golden["reconstruction"]) < 8e-4


def test_decoding_noise_gives_the_published_picture(run):
    assert golden_files.relative_error(run.decode(run.golden["decode.x_T"]), run.golden["decode.image"]) < 2e-4


def test_sampling_the_prior_gives_the_published_codes(run):
    assert golden_files.relative_error(run.sample_latent(), run.golden["latent.sample"]) < 2e-6
