"""Karlo's decoder and super-resolution print what kakaobrain/karlo printed."""

import golden_files
import pytest
import torch
from karlo_golden import CASE, Published, decoder, upsampler

from pack.guidance.sampling import fixed_small, sample_ddpm


def test_the_decoders_forward_is_the_published_one():
    """The first half has the picture's embedding, the second its null."""
    arguments, golden = golden_files.load(CASE)
    network = decoder(arguments)
    image = torch.cat([golden["image_embedding"], network.cf_param.expand(2, -1)])
    text = network.read(golden["text.states"], golden["text.pooled"], golden["text.mask"].bool(), image)
    out = network(golden["forward.x"], golden["forward.t"], text)
    assert golden_files.relative_error(out, golden["forward.out"]) < 1e-5


def test_strength_leads_from_the_null_to_the_picture_to_the_bit():
    arguments, golden = golden_files.load(CASE)
    network, image = decoder(arguments), golden["image_embedding"]
    told = [golden[f"text.{name}"][:2] for name in ("states", "pooled")] + [golden["text.mask"][:2].bool()]

    def read(*given):
        text = network.read(*told, *given)
        return text.states, text.pooled

    for strength, same in ((0.0, (None,)), (1.0, (image,))):
        assert all(a.equal(b) for a, b in zip(read(image, strength), read(*same), strict=True))
    assert not read(image, 0.5)[1].equal(read(image)[1])


def test_both_networks_of_the_super_resolution_are_the_published_ones():
    arguments, golden = golden_files.load(CASE)
    network, t = upsampler(arguments), golden["sr.forward.t"]
    x = torch.cat([golden["sr.forward.x"], golden["sr.low_res"]], 1)
    first, last = network.model_first_steps(x, t), network.model_last_step(x, t)
    assert golden_files.relative_error(first, golden["sr.forward.out"]) < 1e-5
    assert golden_files.relative_error(last, golden["sr.forward.out_last_step"]) < 1e-5


@pytest.mark.parametrize("t", [0, 1])
def test_the_last_network_makes_the_step_at_0_alone(t):
    arguments, golden = golden_files.load(CASE)
    network, times = upsampler(arguments), torch.full((2,), t)
    x = torch.cat([golden["sr.forward.x"], golden["sr.low_res"]], 1)
    expected = network.model_first_steps if t else network.model_last_step
    assert network(x, times).equal(expected(x, times))


@torch.no_grad()
def test_a_whole_run_of_the_decoder_is_the_published_one():
    run = Published()
    sigmas = run.sigmas(run.arguments["respacing"])
    x_T = run.golden["x_T.doubled"][: run.half] * (1 + sigmas[0] ** 2) ** 0.5
    final = sample_ddpm(run.predict, x_T, sigmas, run.noise)
    assert golden_files.relative_error(final, run.golden["cfg.ddpm.final"]) < 1e-3


@torch.no_grad()
def test_a_whole_run_of_the_super_resolution_is_the_published_one():
    run = Published()
    sigmas = run.sigmas(7)
    x_T = run.golden["sr.x_T"] * (1 + sigmas[0] ** 2) ** 0.5
    seen = []
    report = lambda index, x, denoised, sigma: seen.append(x / (1 + sigma[0] ** 2) ** 0.5)  # noqa: E731
    final = sample_ddpm(run.enlarge, x_T, sigmas, run.large_noise, variance=fixed_small, on_step=report)
    assert golden_files.relative_error(seen[6], run.golden["sr.ddpm.before_last"]) < 1e-4
    assert golden_files.relative_error(final, run.golden["sr.ddpm.final"]) < 1e-4
