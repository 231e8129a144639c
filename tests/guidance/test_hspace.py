"""Arithmetic of h-space: Asyrp's update, norms, ranges of progress, mixes, components, and what directions do."""

import math

import pytest
import torch

from pack.guidance.hspace import (
    BUCKETS,
    added,
    asymmetric_step,
    at_progress,
    at_size,
    brought_about,
    calibration_shift,
    combined,
    longest_window,
    mixed,
    principal,
    several_factor,
    step_count_factor,
    steps_of_a_whole_run,
)
from pack.guidance.samplers import first_order


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seen_by_euler(plain, edited, sigma, following, flow=False):
    """The prediction of which Euler makes Asyrp's step."""
    return plain + first_order(sigma, following, flow=flow).edit(edited - plain)


def test_an_euler_step_on_the_asymmetric_prediction_is_asyrps_step():
    """X' = D~ + rho (X - D): the edited picture, the unedited direction of the noise."""
    x, plain, edited = (drawn(2, 3, 4, 4, seed=k) for k in range(3))
    sigma, following = 3.0, 1.7
    rho = following / sigma
    seen = seen_by_euler(plain, edited, sigma, following)
    torch.testing.assert_close(seen + rho * (x - seen), edited + rho * (x - plain), atol=1e-12, rtol=0)


def test_on_a_flow_the_step_moves_the_pictures_share_only():
    """x' = (1 - s') P~ + s' eps with the plain prediction's eps: without a' it is 1 / (1 - s') too strong."""
    x, plain, edited = (drawn(2, 3, 4, 4, seed=k) for k in range(3))
    for sigma, following in ((0.9, 0.8), (0.5, 0.3), (0.2, 0.0)):
        eps = (x - (1 - sigma) * plain) / sigma
        wanted = (1 - following) * edited + following * eps
        seen = seen_by_euler(plain, edited, sigma, following, flow=True)
        torch.testing.assert_close(seen + following / sigma * (x - seen), wanted, atol=1e-12, rtol=0)
        torch.testing.assert_close(
            asymmetric_step(x, plain, edited, sigma, following, flow=True), wanted, atol=1e-12, rtol=0
        )
    assert 1 / (1 - 0.8) > 4.9


def test_the_same_edit_of_the_same_model_moves_the_same_on_a_flow_as_on_eps():
    """x = X / (1 + S) with S = s / (1 - s): the same picture in another scaling, before and after the step."""
    x, plain, edited = (drawn(2, 3, 4, 4, seed=k) for k in range(3))
    for sigma, following in ((9.0, 4.0), (4.0, 0.5), (0.5, 0.0)):
        s, after = sigma / (1 + sigma), following / (1 + following)
        vp = asymmetric_step(x, plain, edited, sigma, following)
        flow = asymmetric_step(x / (1 + sigma), plain, edited, s, after, flow=True)
        torch.testing.assert_close(flow * (1 + following), vp, atol=1e-12, rtol=0)


def test_training_makes_the_step_that_a_sampler_makes_of_the_asymmetric_prediction():
    x, plain, edited = (drawn(2, 3, 4, 4, seed=k) for k in range(3))
    for flow in (False, True):
        seen = seen_by_euler(plain, edited, 0.7, 0.6, flow)
        step = asymmetric_step(x, plain, edited, 0.7, 0.6, flow)
        torch.testing.assert_close(seen + 0.6 / 0.7 * (x - seen), step, atol=1e-12, rtol=0)


def test_a_difference_of_half_precision_pictures_is_formed_in_float32():
    """What bfloat16 numbers differ by is exact there, and rounds in bfloat16."""
    x, plain, edited = drawn(1, 3, 8, 8), drawn(1, 3, 8, 8).bfloat16(), drawn(1, 3, 8, 8).add(0.01).bfloat16()
    step = asymmetric_step(x, plain, edited, 5.0, 4.9)
    exact = asymmetric_step(x, plain.double(), edited.double(), 5.0, 4.9)
    torch.testing.assert_close(step, exact, rtol=1e-12, atol=1e-12)


def test_the_last_step_is_the_edited_prediction():
    plain, edited = drawn(1, 3, 4, 4), drawn(1, 3, 4, 4, seed=1)
    torch.testing.assert_close(seen_by_euler(plain, edited, 0.2, 0.0), edited, atol=1e-14, rtol=0)


def test_an_edit_of_nothing_keeps_every_bit():
    h = drawn(2, 8, 4, 4).float()
    assert torch.equal(added(h, torch.zeros_like(h), preserve_norm=False), h)
    assert torch.equal(seen_by_euler(h, h, 2.0, 1.0), h)


def test_a_preserved_norm_is_that_of_each_sample():
    h, delta = drawn(3, 8, 4, 4), 5 * drawn(3, 8, 4, 4, seed=1)
    moved = added(h, delta, preserve_norm=True)
    torch.testing.assert_close(moved.flatten(1).norm(dim=1), h.flatten(1).norm(dim=1), rtol=1e-12, atol=1e-12)
    cosine = torch.nn.functional.cosine_similarity(moved.flatten(1), (h + delta).flatten(1))
    torch.testing.assert_close(cosine, torch.ones_like(cosine), rtol=1e-12, atol=1e-12)


def test_each_range_of_progress_has_its_direction():
    delta = torch.arange(BUCKETS).double().view(-1, 1, 1, 1).expand(-1, 2, 4, 4)
    like = torch.zeros(3, 2, 4, 4)
    for progress, bucket in ((0.0, 0), (0.124, 0), (0.126, 1), (0.99, 7), (1.0, 7)):
        assert (at_progress(delta, progress, like) == bucket).all()


def test_a_direction_is_brought_to_the_size_of_the_bottleneck():
    assert at_progress(drawn(1, 2, 4, 4), 0.5, torch.zeros(3, 2, 8, 6)).shape == (1, 2, 8, 6)


def test_a_trained_delta_counts_the_same_over_any_number_of_steps():
    assert step_count_factor(40, 20) * 20 == step_count_factor(40, 80) * 80 == 40
    assert step_count_factor(None, 20) == 1


def test_a_part_of_a_run_has_the_steps_of_the_whole_that_it_is_cut_from():
    whole = [k / 19 for k in range(20)]
    parts = {"whole": whole, "denoise .4": whole[12:], "first": whole[:9], "last": whole[8:], "two levels": whole[5:7]}
    for part in parts.values():
        assert all(math.isclose(steps_of_a_whole_run(part, index), 20) for index in range(len(part)))
    assert steps_of_a_whole_run([0.0], 0) == 1


def test_the_steps_of_a_chain_of_rounded_levels_are_those_of_its_evenly_spread_ones():
    """np.linspace(0, 1, 40) * 999, as Asyrp's code rounds it."""
    levels = [1 - int(k / 39 * 999) / 999 for k in reversed(range(40))]
    assert all(abs(steps_of_a_whole_run(levels, index) - 40) < 1e-9 for index in range(40))


def test_levels_that_are_unevenly_spread_count_by_their_neighbours_wherever_the_run_is_cut():
    levels = [(k / 19) ** 2 for k in range(20)]
    counted = [steps_of_a_whole_run(levels, index) for index in range(20)]
    assert counted[3] != counted[10]
    assert [steps_of_a_whole_run(levels[:11], index) for index in range(10)] == counted[:10]
    assert [steps_of_a_whole_run(levels[10:], index) for index in range(10)] == counted[10:]


def test_attributes_have_their_own_strengths_at_the_plain_h():
    h = drawn(2, 8, 4, 4)
    shifts = [h.square(), h.sin(), h.exp()]
    found = combined(shifts, [0.5, 0.0, -2.0])
    torch.testing.assert_close(found, (0.5 * shifts[0] - 2 * shifts[2]) / 2**0.5, atol=1e-14, rtol=0)
    torch.testing.assert_close(combined(shifts[:1], [0.7]), 0.7 * shifts[0], atol=0, rtol=0)
    assert torch.equal(combined(shifts, [0.0, 0.0, 0.0]), torch.zeros_like(h))


def test_n_attributes_count_one_over_the_root_of_n():
    assert math.isclose(several_factor(4), 0.5)


def test_a_mix_goes_from_one_bottleneck_to_the_other_on_its_own_sphere():
    h, content = drawn(2, 8, 4, 4), 3 * drawn(2, 8, 4, 4, seed=1)
    torch.testing.assert_close(mixed(h, content, 0.0), h, rtol=1e-12, atol=1e-12)
    scaled = content * (h.flatten(1).norm(dim=1) / content.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
    torch.testing.assert_close(mixed(h, content, 1.0), scaled, rtol=1e-12, atol=1e-12)
    half = mixed(h, content, 0.5)
    torch.testing.assert_close(half.flatten(1).norm(dim=1), h.flatten(1).norm(dim=1), rtol=1e-12, atol=1e-12)
    a, b = (torch.nn.functional.cosine_similarity(half.flatten(1), part.flatten(1)) for part in (h, scaled))
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_a_mix_of_a_bottleneck_with_itself_is_itself():
    h = drawn(2, 8, 4, 4)
    torch.testing.assert_close(mixed(h, 2 * h, 0.3), h, rtol=1e-12, atol=1e-12)


def test_principal_components_are_those_of_the_covariance():
    samples = drawn(200, 3, 2, 2) * torch.linspace(0.5, 3, 12, dtype=torch.float64).view(3, 2, 2)
    mean, rows, deviations = principal(samples, 3)
    flat = samples.flatten(1)
    values, vectors = torch.linalg.eigh(torch.cov(flat.T))
    torch.testing.assert_close(mean.double().flatten(), flat.mean(0), rtol=0, atol=3e-8)
    torch.testing.assert_close(deviations.double(), values.flip(0)[:3].sqrt(), rtol=0, atol=7e-7)
    cosines = (rows.double().flatten(1) @ vectors.flip(1)[:, :3]).diagonal().abs()
    torch.testing.assert_close(cosines, torch.ones_like(cosines), rtol=0, atol=3e-7)
    assert (rows.flatten(1).gather(1, rows.flatten(1).abs().argmax(1, keepdim=True)) > 0).all()


# Latent calibration


def test_a_calibrated_step_is_the_published_one():
    """In x_t with a = 1 / (1 + sigma^2): x_t' = x_t + sqrt(a) (P^ - P) + w sqrt(1 - a) (eps~ - eps), then DDIM."""
    x, plain, edited, after = (drawn(2, 3, 4, 4, seed=k) for k in range(4))
    sigma, following, omega = 3.0, 1.7, 0.3
    a, following_a = 1 / (1 + sigma**2), 1 / (1 + following**2)
    eps, moved_eps = (x - plain) / sigma, (x - edited) / sigma
    centre = edited.mean((1, 2, 3), keepdim=True)
    spread = plain.std((1, 2, 3), keepdim=True) / edited.std((1, 2, 3), keepdim=True)
    same_spread = centre + (edited - centre) * spread
    x_t = a**0.5 * x + a**0.5 * (same_spread - plain) + omega * (1 - a) ** 0.5 * (moved_eps - eps)
    after_eps = (x_t - a**0.5 * after) / (1 - a) ** 0.5
    published = following_a**0.5 * after + (1 - following_a) ** 0.5 * after_eps

    shift = calibration_shift(plain, edited, omega)
    move = first_order(sigma, following)
    wanted = move.kept * shift + move.now * (after - plain)
    ours = plain + following / sigma * (x - plain) + wanted
    torch.testing.assert_close(following_a**0.5 * ours, published, atol=1e-12, rtol=0)


def test_calibration_of_an_edit_of_nothing_moves_nothing():
    plain = drawn(2, 3, 4, 4)
    torch.testing.assert_close(calibration_shift(plain, plain, 0.7), torch.zeros_like(plain), atol=1e-14, rtol=0)


def test_another_bottleneck_is_brought_to_size_and_type():
    h = drawn(2, 8, 4, 4)
    assert torch.equal(at_size(h, h), h)
    stretched = at_size(h, torch.zeros(1, 8, 8, 6))
    assert stretched.shape == (2, 8, 8, 6) and stretched.dtype == torch.float32


# What a direction does to predictions


def test_the_share_of_a_wanted_change_is_1_for_all_0_for_none_and_below_0_for_the_way_back():
    wanted = drawn(4, 2, 3, 4, 4)
    parts = torch.tensor([1.0, 0.0, -1.0, 0.5], dtype=torch.float64)
    shares = brought_about(parts.view(-1, 1, 1, 1, 1) * wanted, wanted, directed=True)
    torch.testing.assert_close(torch.tensor(shares), 1 - (1 - parts.float()) ** 2, rtol=0, atol=1e-6)


def test_a_change_across_the_wanted_one_counts_against_it_by_its_square():
    wanted, across = drawn(1, 6), drawn(1, 6, seed=1)
    across = across - (across * wanted).sum() / wanted.square().sum() * wanted
    across = 0.3 * across * wanted.norm() / across.norm()
    (share,) = brought_about(wanted + across, wanted, directed=True)
    assert abs(share - (1 - 0.3**2)) < 1e-6


def test_without_a_wanted_change_what_counts_is_its_length_by_that_of_the_predictions_whatever_its_direction():
    predictions, other = drawn(3, 2, 8), drawn(3, 2, 8, seed=1)
    other = other / other.flatten(1).norm(dim=1).view(-1, 1, 1) * predictions.flatten(1).norm(dim=1).view(-1, 1, 1)
    factors = torch.tensor([0.0, 0.25, 2.0], dtype=torch.float64)
    found = brought_about(factors.view(-1, 1, 1) * other, predictions, directed=False)
    torch.testing.assert_close(torch.tensor(found), factors.float(), rtol=0, atol=1e-6)


def test_levels_are_compared_each_by_itself():
    change, wanted = drawn(3, 2, 5), drawn(3, 2, 5, seed=1)
    together = brought_about(change, wanted, directed=True)
    assert together == [brought_about(change[k : k + 1], wanted[k : k + 1], directed=True)[0] for k in range(3)]


@pytest.mark.parametrize(
    "does, window",
    [
        ([0.0, 0.0, 1.0, 0.0], (0.5, 0.75)),  # the strongest alone
        ([0.5, 0.6, 1.0, 0.49], (0.0, 0.75)),  # half as much still counts, less doesn't
        ([1.0, 0.1, 0.9, 0.9], (0.0, 0.25)),  # what is cut off from the strongest is left out
        ([0.7, 0.8, 0.9, 1.0], (0.0, 1.0)),
        ([-2.0, 0.1, 0.06, -0.3], (0.25, 0.75)),  # leading away is less than nothing
        ([0.0, 0.0, 0.0, 0.0], (0.0, 1.0)),
        ([-0.2, -0.1, -0.3, -0.4], (0.0, 1.0)),
    ],
)
def test_the_window_is_the_stretch_around_the_strongest_part_that_does_half_as_much(does, window):
    assert longest_window(does) == window
