"""Asyrp's timing: distances of features, and where a curve first reaches a threshold."""

import pytest
import torch

from pack.guidance.asyrp_timing import Fading, perceptual, unit_channels

CURVE = Fading(progress=(1.0, 0.8, 0.5, 0.1), distance=(0.0, 0.2, 0.6, 0.5))


@pytest.mark.parametrize(
    "threshold, place", [(0.0, 1.0), (-1.0, 1.0), (0.1, 0.9), (0.2, 0.8), (0.5, 0.575), (0.6, 0.5), (0.61, None)]
)
def test_a_threshold_is_reached_first_on_the_way_from_the_picture_to_noise(threshold, place):
    assert CURVE.reaches(threshold) == (None if place is None else pytest.approx(place))


def test_the_distance_sums_layers_and_averages_places():
    found = [torch.zeros(2, 3, 2, 2), torch.zeros(2, 1, 1, 1)]
    wanted = [torch.ones(2, 3, 2, 2), torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)]
    assert perceptual(found, wanted).tolist() == [3 + 1, 3 + 4]


def test_features_have_length_one_at_each_place_and_nothing_stays_nothing():
    maps = torch.randn(2, 5, 3, 3)
    maps[0, :, 0, 0] = 0
    lengths = unit_channels(maps).norm(dim=1)
    assert lengths[0, 0, 0] == 0
    lengths[0, 0, 0] = 1
    torch.testing.assert_close(lengths, torch.ones_like(lengths), rtol=1e-6, atol=1e-6)
