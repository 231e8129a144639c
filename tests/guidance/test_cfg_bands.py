"""The bands of FDG: what is coarse, what is fine, and that they add up."""

import pytest
import torch
from cfg_worlds import VIDEO, draw, largest_error, spread

from pack.guidance.cfg_direction import Bands


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (3, 5), (64, 6)])
def test_constants_are_all_coarse(size):
    value = torch.ones(2, 4, *size, dtype=torch.float64) * spread((0.3, -7.0), 4)
    assert largest_error(Bands(0.5, 3.0)(value, None, {}), 0.5 * value) < 1e-12


def test_a_checkerboard_is_all_fine():
    rows, columns = torch.arange(8)[:, None], torch.arange(8)
    value = ((-1.0) ** (rows + columns)).double().expand(1, 2, 8, 8)
    assert largest_error(Bands(0.5, 3.0)(value, None, {}), 3.0 * value) < 1e-12


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (2, 4, 9, 7), (1, 4, 3, 5), VIDEO])
def test_equal_bands_are_one_factor_and_the_bands_add_up(shape):
    value = draw(4, *shape)
    assert largest_error(Bands(0.3, 0.3)(value, None, {}), 0.3 * value) < 1e-12
    low, high = Bands(1.0, 0.0)(value, None, {}), Bands(0.0, 1.0)(value, None, {})
    assert largest_error(low + high, value) < 1e-12
    assert (low - value).abs().max() > 0.1 and low.abs().max() > 0.1


def test_the_larger_a_wave_the_more_of_it_is_coarse():
    at = torch.arange(64, dtype=torch.float64)
    waves = [torch.cos(2 * torch.pi * at / period).expand(1, 1, 64, 64) for period in (2.5, 4, 8, 16, 32)]
    kept = [float(Bands(1.0, 0.0)(wave, None, {}).norm() / wave.norm()) for wave in waves]
    assert kept == sorted(kept) and kept[0] < 0.1 and kept[-1] > 0.9


def test_each_frame_of_a_video_has_its_own_pyramid():
    value = draw(6, *VIDEO)
    whole = Bands(0.2, 1.3)(value, None, {})
    for frame in range(VIDEO[2]):
        assert largest_error(whole[:, :, frame], Bands(0.2, 1.3)(value[:, :, frame], None, {})) < 1e-12
