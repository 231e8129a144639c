"""The forwards of the two networks of kwonminki/Asyrp_official."""

import golden_files
import pytest
from asyrp_golden import CASES, Published, delta_network, network

from pack.guidance.samplers import first_order
from pack.guidance.sampling import sample_ddim
from pack.guidance.tensors import append_dims


@pytest.mark.parametrize("case", CASES)
def test_the_forward_is_the_published_one(case):
    arguments, golden = golden_files.load(case)
    eps = network(arguments)(golden["forward.x"], golden["forward.t"])
    assert golden_files.relative_error(eps, golden["forward.eps"]) < 1e-5


@pytest.mark.parametrize("case", CASES)
def test_the_bottleneck_callable_sees_the_published_h(case):
    arguments, golden = golden_files.load(case)
    seen = []

    def look(h, emb):
        seen.append(h)
        return h

    eps = network(arguments)(golden["forward.x"], golden["forward.t"], edit_h=look)
    assert golden_files.relative_error(seen[0], golden["forward.middle_h"]) < 1e-5
    assert golden_files.relative_error(eps, golden["forward.eps"]) < 1e-5


@pytest.mark.parametrize("case", CASES)
def test_the_delta_block_and_the_edited_forward_are_the_published_ones(case):
    arguments, golden = golden_files.load(case)
    base = network(arguments)
    h, skips, emb = base.down_half(golden["forward.x"], golden["forward.t"])
    delta_h = delta_network(arguments, h.shape[1], emb.shape[1])(h, emb)
    assert golden_files.relative_error(delta_h, golden["forward.delta_h"]) < 1e-5
    keep, move = arguments["hs_coeff"]
    edited = base.up_half(keep * h + move * delta_h, skips, emb)
    assert golden_files.relative_error(edited, golden["forward.eps_edited"]) < 1e-5


@pytest.mark.parametrize("case", CASES)
def test_a_decoder_half_run_again_gives_the_same_bits(case):
    arguments, golden = golden_files.load(case)
    base = network(arguments)
    parts = base.down_half(golden["forward.x"], golden["forward.t"])
    whole = base(golden["forward.x"], golden["forward.t"])
    assert base.up_half(*parts).equal(whole)
    assert base.up_half(*parts).equal(whole)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("path", ["plain", "edited"])
def test_a_boosted_trajectory_is_the_published_one(case, path):
    """Asyrp's loop as DDIM on asymmetric predictions: eta 0, and 1 below t_boost."""
    run = Published(case)
    keep, move = run.arguments["hs_coeff"]
    below = dict(zip(run.rising, [0.0, *run.rising], strict=False))

    def predict(x, sigma):
        level = float(sigma[0])
        near = min(run.rising, key=lambda known: abs(known - level))
        t = run.timesteps[run.rising.index(near)]
        scaled = x / append_dims(run.scale(sigma), x.ndim)
        h, skips, emb = run.network.down_half(scaled, sigma.new_full((len(x),), t).long())
        denoised = x - near * run.network.up_half(h, skips, emb)[:, :3]
        if path == "plain" or t < run.arguments["t_edit"]:
            return denoised, None
        delta_h = delta_network(run.arguments, h.shape[1], emb.shape[1])(h, emb)
        edited = x - near * run.network.up_half(keep * h + move * delta_h, skips, emb)[:, :3]
        return denoised + first_order(near, below[near]).edit(edited - denoised), None

    boost = max(s for s, t in zip(run.rising, run.timesteps, strict=True) if t < run.arguments["t_boost"])
    start = run.golden["inverted"] * run.scale(run.rising[-1])
    eta = lambda sigma: float(sigma <= boost * 1.0001)  # noqa: E731
    result = sample_ddim(predict, start, run.sigmas, run.noise, eta=eta)
    assert golden_files.relative_error(result, run.golden[f"sample.{path}"]) < 1e-5
