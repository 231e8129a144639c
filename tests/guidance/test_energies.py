"""Every energy against its formula, written out once more in float64, and batch by batch."""

import math

import pytest
import torch
from torch.nn.functional import cosine_similarity

from pack.guidance import palette_energy, style_energy
from pack.guidance.clip_energy import cosine, pair, spherical
from pack.guidance.diversity_energy import likeness, repulsion
from pack.guidance.recurrence import again, as_if_from
from pack.guidance.structure_energy import difference, self_similarity
from pack.guidance.views import clamped, crops, look


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_cosine_is_the_negative_mean_cosine_to_the_targets():
    found, wanted = draw(3, 7), draw(2, 7, seed=1)
    expected = [-sum(cosine_similarity(f, w, dim=0) for w in wanted) / 2 for f in found]
    torch.testing.assert_close(cosine(found, wanted), torch.stack(expected), rtol=1e-6, atol=1e-6)


def test_spherical_is_half_the_squared_angle():
    u, v = torch.tensor([[1.0, 0.0]]), torch.tensor([[math.cos(0.7), math.sin(0.7)]])
    assert spherical(3 * u, 5 * v).item() == pytest.approx(0.7**2 / 2, rel=1e-5)


def test_a_pair_of_texts_is_minus_the_log_of_a_softmax_over_both_cosines():
    found, texts = draw(3, 7), draw(2, 7, seed=1)
    cosines = torch.stack([cosine_similarity(found, text[None], dim=1) for text in texts], dim=1)
    torch.testing.assert_close(pair(found, texts, 30.0), -(30 * cosines).log_softmax(1)[:, 0], rtol=1e-5, atol=1e-5)
    assert pair(texts[:1], texts, 0.0).item() == pytest.approx(math.log(2), rel=1e-6)


def by_hand(features):
    """Mean kernel with the others, picture by picture, and the paper's potential: (1 / 2) sum_ij k(x_i, x_j)."""
    n = len(features)
    squared = [[(x - y).double().square().sum().item() for y in features] for x in features]
    pairs = sorted(squared[i][j] for i in range(n) for j in range(i))
    width = pairs[(len(pairs) - 1) // 2] / math.log(n)
    kernel = [[math.exp(-squared[i][j] / width) if i != j else 0.0 for j in range(n)] for i in range(n)]
    return torch.tensor([sum(row) / (n - 1) for row in kernel]), sum(map(sum, kernel)) / 2


@pytest.mark.parametrize("count", [2, 3, 8])
def test_likeness_is_the_mean_rbf_kernel_with_the_median_as_its_width(count):
    features = draw(count, 5)
    each, potential = by_hand(features)
    found = likeness(features)
    torch.testing.assert_close(found, each.float(), rtol=1e-5, atol=1e-6)
    assert found.sum().item() * (count - 1) / 2 == pytest.approx(potential, rel=1e-5)
    torch.testing.assert_close(likeness(torch.stack([features, 7 * features])), found.repeat(2, 1))


def test_down_the_likeness_each_picture_goes_away_from_the_others_by_the_kernel_of_particle_guidance():
    """dE / dx_i = -(4 / ((n - 1) h)) sum_j k_ij (x_i - x_j), with h as a constant."""
    x = draw(4, 3).requires_grad_(True)
    (grad,) = torch.autograd.grad(likeness(x).sum(), x)
    gaps = x[:, None] - x[None]
    squared = gaps.square().sum(2)
    width = squared[torch.triu(torch.ones(4, 4), 1) > 0].median() / math.log(4)
    expected = -4 / (3 * width) * ((-squared / width).exp()[..., None] * gaps).sum(1)
    torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-5)


def test_a_repulsion_is_minus_the_mean_distance_and_pulls_as_the_likeness_does():
    x = draw(2, 4, 3).requires_grad_(True)
    found = repulsion(x)
    expected = torch.stack([-(x[0, k] - x[0]).norm(dim=1).sum() / 3 for k in range(4)])
    torch.testing.assert_close(found[0], expected, rtol=1e-5, atol=1e-6)
    grads = [torch.autograd.grad(energy(x).sum(), x)[0] for energy in (repulsion, likeness)]
    assert torch.equal(*grads)


def test_equal_pictures_are_as_like_as_can_be_and_have_a_finite_gradient():
    x = torch.ones(3, 5, requires_grad=True)
    (grad,) = torch.autograd.grad(likeness(x).sum(), x)
    assert likeness(x).tolist() == [1, 1, 1] and torch.equal(grad, torch.zeros(3, 5))


def test_difference_is_the_mean_square_over_a_map_summed_over_maps():
    found, wanted = [draw(2, 3, 4, 4), draw(2, 5, 2, 2, seed=1)], [draw(1, 3, 4, 4, seed=2), draw(1, 5, 2, 2, seed=3)]
    expected = [
        sum((f[b] - w[0]).square().sum() / f[b].numel() for f, w in zip(found, wanted, strict=True)) for b in (0, 1)
    ]
    torch.testing.assert_close(difference(found, wanted), torch.stack(expected), rtol=1e-6, atol=1e-6)


def test_self_similarity_compares_cosines_between_places():
    found, wanted = draw(2, 6, 3, 3), draw(1, 6, 3, 3, seed=1)

    def similarities(maps):
        tokens = maps.flatten(1).T
        return torch.stack([cosine_similarity(tokens[i][None], tokens, dim=1) for i in range(len(tokens))])

    expected = [(similarities(f) - similarities(wanted[0])).square().mean() for f in found]
    torch.testing.assert_close(self_similarity([found], [wanted]), torch.stack(expected), rtol=1e-6, atol=1e-6)


def test_self_similarity_does_not_see_a_rotation_of_the_feature_space():
    maps = draw(2, 6, 3, 3)
    turn, _ = torch.linalg.qr(draw(6, 6, seed=4))
    turned = torch.einsum("cd,bdhw->bchw", turn, maps)
    assert self_similarity([turned], [maps[:1]])[0] < 1e-10


def test_a_gram_matrix_is_per_sample_and_divided_by_all_its_elements():
    maps = draw(2, 3, 4, 5)
    expected = torch.stack([m.flatten(1) @ m.flatten(1).T / (3 * 4 * 5) for m in maps])
    torch.testing.assert_close(style_energy.gram(maps), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["squared", "relative"])
def test_style_is_the_mean_over_layers_whether_they_are_of_one_size_or_not(name):
    found = [draw(2, 3, 4, 4, seed=seed) for seed in (1, 2)] + [draw(2, 5, 2, 2, seed=3)]
    wanted = [draw(2, 3, 4, 4, seed=seed) for seed in (4, 5)] + [draw(2, 5, 2, 2, seed=6)]

    def distance(f, w):
        gap = style_energy.gram(f) - style_energy.gram(w)
        return gap.square().mean() if name == "squared" else gap.norm() / style_energy.gram(w).norm()

    each = [[[distance(f[b], w[n]) for f, w in zip(found, wanted, strict=True)] for n in (0, 1)] for b in (0, 1)]
    value = getattr(style_energy, name)(style_energy.grams(found), style_energy.grams(wanted))
    torch.testing.assert_close(value, torch.tensor(each).mean((1, 2)))


def test_huge_features_in_half_precision_have_a_finite_gram_matrix():
    assert torch.isfinite(style_energy.gram(torch.full((1, 8, 64, 64), 6e4, dtype=torch.float16))).all()


def test_the_relative_style_distance_does_not_depend_on_the_encoders_scale():
    found, wanted = style_energy.grams([draw(2, 3, 4, 4)]), style_energy.grams([draw(1, 3, 4, 4, seed=1)])
    scaled = style_energy.relative([1e4 * found[0]], [1e4 * wanted[0]])
    torch.testing.assert_close(style_energy.relative(found, wanted), scaled, rtol=1e-6, atol=1e-6)
    assert style_energy.relative(wanted, wanted).item() == 0


def test_the_palette_distance_of_shuffled_pixels_is_zero_and_of_shifted_ones_the_shift():
    colours = draw(1, 3, 256)
    shuffled = colours[:, :, torch.randperm(256, generator=torch.Generator().manual_seed(0))]
    wanted = palette_energy.quantiles(colours)
    assert palette_energy.sliced_wasserstein(palette_energy.quantiles(shuffled), wanted).item() < 1e-10
    shift = torch.tensor([0.3, -0.1, 0.2])[None, :, None]
    moved = palette_energy.sliced_wasserstein(palette_energy.quantiles(colours + shift), wanted)
    expected = (palette_energy.directions() @ shift[0]).square().mean()
    assert moved.item() == pytest.approx(expected.item(), rel=1e-4)


def test_palettes_of_pictures_of_different_sizes_are_comparable():
    small = draw(1, 3, 8, 8).flatten(2)
    large = small.repeat_interleave(9, dim=2)
    found, wanted = palette_energy.quantiles(large), palette_energy.quantiles(small)
    assert palette_energy.sliced_wasserstein(found, wanted).item() < 5e-3


ENERGIES = {
    "cosine": lambda x, w: cosine(x.flatten(1), w.flatten(1)),
    "spherical": lambda x, w: spherical(x.flatten(1), w.flatten(1)),
    "pair": lambda x, w: pair(x.flatten(1), w.flatten(1)[:2], 30.0),
    "difference": lambda x, w: difference([x], [w]),
    "self-similarity": lambda x, w: self_similarity([x], [w]),
    "squared": lambda x, w: style_energy.squared(
        style_energy.grams([x, x[:, :2], 2 * x]), style_energy.grams([w, w[:, :2], 2 * w])
    ),
    "relative": lambda x, w: style_energy.relative(style_energy.grams([x]), style_energy.grams([w])),
    "palette": lambda x, w: palette_energy.sliced_wasserstein(palette_energy.quantiles(x), palette_energy.quantiles(w)),
}


def in_views(compare, measure=lambda x: [x]):
    """Of pictures [V B C H W] and references [V n C H W]."""

    def energy(x, w):
        measured = [[part.unflatten(0, y.shape[:2]) for part in measure(y.flatten(0, 1))] for y in (x, w)]
        return compare(*measured)

    return energy


IN_VIEWS = {
    "cosine": in_views(lambda f, w: cosine(f[0].flatten(2), w[0].flatten(2))),
    "spherical": in_views(lambda f, w: spherical(f[0].flatten(2), w[0].flatten(2))),
    "pair": in_views(lambda f, w: pair(f[0].flatten(2), w[0].flatten(2)[:, :2], 30.0)),
    "difference": in_views(difference),
    "self-similarity": in_views(self_similarity),
    "squared": in_views(style_energy.squared, lambda x: style_energy.grams([x, x[:, :2], 2 * x])),
    "relative": in_views(style_energy.relative, lambda x: style_energy.grams([x])),
}


@pytest.mark.parametrize("name", [name for name in ENERGIES if name != "palette"])
def test_views_in_front_are_compared_each_with_its_own_references(name):
    x, wanted = draw(3, 2, 3, 6, 6), draw(3, 4, 3, 6, 6, seed=9)
    each = torch.stack([ENERGIES[name](f, w) for f, w in zip(x, wanted, strict=True)])
    torch.testing.assert_close(IN_VIEWS[name](x, wanted), each)


@pytest.mark.parametrize("name", ENERGIES)
def test_an_image_of_a_batch_has_the_energy_and_gradient_it_has_alone(name):
    x, wanted = draw(8, 3, 6, 6).requires_grad_(True), draw(2, 3, 6, 6, seed=9)
    values = ENERGIES[name](x, wanted)
    (grads,) = torch.autograd.grad(values.sum(), x)
    for k in range(8):
        alone = x[k : k + 1].detach().requires_grad_(True)
        value = ENERGIES[name](alone, wanted)
        (grad,) = torch.autograd.grad(value.sum(), alone)
        torch.testing.assert_close(values[k : k + 1], value, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(grads[k : k + 1], grad, rtol=1e-6, atol=1e-6)


def test_the_first_view_is_the_whole_picture_and_crops_stay_inside():
    boxes = crops(64, torch.Generator().manual_seed(0))
    assert boxes[0].tolist() == [0, 0, 1, 1]
    assert (boxes[:, :2] >= 0).all() and (boxes[:, :2] + boxes[:, 2:] <= 1 + 1e-6).all()
    assert (boxes[:, 2] * boxes[:, 3] >= 0.3 - 1e-6).all()


def test_the_same_generator_makes_the_same_crops():
    assert torch.equal(*(crops(5, torch.Generator().manual_seed(3)) for _ in range(2)))


def test_looking_at_the_whole_picture_at_its_own_size_changes_nothing():
    pictures = draw(2, 3, 32, 32)
    whole = torch.tensor([[0.0, 0, 1, 1]])
    assert look(pictures, whole, 32) is pictures
    twice = look(pictures, whole.repeat(2, 1), 32)
    torch.testing.assert_close(twice, pictures.repeat(2, 1, 1, 1), rtol=1e-4, atol=1e-5)


def test_a_crop_is_the_part_of_a_ramp_that_it_frames():
    ramp = ((torch.arange(64) + 0.5) / 64).expand(1, 1, 64, 64)
    box = torch.tensor([[0.0, 0, 1, 1], [0.25, 0.1, 0.5, 0.5]])
    crop = look(ramp, box, 16)[1, 0, 8]
    expected = 0.25 + 0.5 * (torch.arange(16) + 0.5) / 16
    torch.testing.assert_close(crop, expected, rtol=0, atol=1e-6)


def test_views_stand_one_after_the_other_each_with_the_whole_batch():
    pictures = torch.stack([torch.full((3, 16, 16), float(value)) for value in (1, 2)])
    seen = look(pictures, crops(3, torch.Generator().manual_seed(0)), 8)
    torch.testing.assert_close(seen.mean((1, 2, 3)), torch.tensor([1.0, 2, 1, 2, 1, 2]), rtol=0, atol=1e-6)


def test_shrinking_is_antialiased():
    fine = torch.tensor([1.0, -1.0]).repeat(64).expand(1, 3, 128, 128).clone()  # stripes one pixel wide
    seen = look(fine, crops(3, torch.Generator().manual_seed(0)), 16)
    assert seen.abs().max() < 0.2


def test_clamping_cuts_values_and_lets_gradients_pass():
    x = torch.tensor([-3.0, 0.5, 2.0], requires_grad=True)
    (grad,) = torch.autograd.grad((clamped(x) * torch.tensor([1.0, 2, 3])).sum(), x)
    assert clamped(x).tolist() == [-1, 0.5, 1]
    assert grad.tolist() == [1, 2, 3]


@pytest.mark.parametrize("flow", [False, True])
def test_a_step_there_and_back_has_the_statistics_of_the_same_noise_level(flow):
    sigma, following = (0.8, 0.5) if flow else (3.0, 1.5)
    a = 1 - sigma if flow else 1.0
    x0, noise = torch.full((200_000,), 0.7, dtype=torch.float64), draw(200_000).double()
    x = a * x0 + sigma * noise
    back = again(x, x0, sigma, following, draw(200_000, seed=1).double(), flow)
    assert back.mean().item() == pytest.approx(a * 0.7, abs=0.03)
    assert (back - a * x0).std().item() == pytest.approx(sigma, rel=0.01)


def test_the_substitute_prediction_ends_the_step_where_the_repeated_one_does():
    start, x, denoised = (draw(2, 5, seed=seed).double() for seed in range(3))
    q = 0.4
    told = as_if_from(start, x, denoised, 2.0, 0.8)
    torch.testing.assert_close(told + q * (start - told), denoised + q * (x - denoised), rtol=1e-12, atol=1e-12)
