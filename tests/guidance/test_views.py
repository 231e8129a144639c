"""How guides look at pictures."""

import pytest
import torch

from pack.guidance.views import centred


@pytest.mark.parametrize("size", [(32, 32), (32, 37), (45, 32), (32, 34), (33, 32)])
def test_a_part_of_full_size_is_a_slice_to_the_bit(size):
    picture = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    top, left = (size[0] - 32) // 2, (size[1] - 32) // 2
    assert torch.equal(centred(picture, 32, 32), picture[:, :, top : top + 32, left : left + 32])


def test_stripes_of_one_pixel_keep_their_contrast_at_odd_offsets():
    stripes = (torch.arange(37) % 2 * 2.0 - 1).expand(1, 3, 32, 37)
    assert centred(stripes, 32, 32).abs().min() == 1


@pytest.mark.parametrize("size", [(64, 64), (48, 80), (20, 31)])
def test_another_size_is_resized_first_and_its_middle_kept(size):
    ramp = torch.linspace(-1, 1, size[1]).expand(1, 1, *size)
    part = centred(ramp, 32, 32)
    assert part.shape == (1, 1, 32, 32)
    assert part.mean().abs() < 0.05
