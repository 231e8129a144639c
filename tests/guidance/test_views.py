"""How guides look at pictures."""

import pytest
import torch

from pack.guidance.views import centred, crops, look, sampling_grid, turn


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


@pytest.mark.parametrize("size", [(40, 40), (48, 36)])
def test_views_are_kornias_crops(size):
    from kornia.geometry.transform import crop_and_resize

    pictures = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    boxes = crops(3, torch.Generator().manual_seed(1))
    seen = look(pictures, boxes, 24).unflatten(0, (3, 2))
    for (left, top, width, height), found in zip(boxes.tolist(), seen, strict=True):
        # kornia's corners are pixel centres: those of the first and the last pixel of the view
        xs = [(left + width * place) * size[1] - 0.5 for place in (0.5 / 24, 23.5 / 24)]
        ys = [(top + height * place) * size[0] - 0.5 for place in (0.5 / 24, 23.5 / 24)]
        corners = torch.tensor([[[xs[i], ys[j]] for i, j in ((0, 0), (1, 0), (1, 1), (0, 1))]]).expand(2, -1, -1)
        expected = crop_and_resize(pictures, corners, (24, 24), align_corners=True, padding_mode="border")
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_a_grid_at_hand_changes_no_bit():
    pictures = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    boxes = crops(4, torch.Generator().manual_seed(1))
    assert torch.equal(look(pictures, boxes, 24), look(pictures, boxes, 24, sampling_grid(boxes, 24)))


@pytest.mark.parametrize("frames, most", [(1, 1), (4, 4), (5, 9), (5, 2), (21, 4), (33, 8), (7, 1)])
@pytest.mark.parametrize("first", [0, 3])
def test_every_frame_of_a_clip_has_its_turn(frames, most, first):
    """In as many looks in a row as it takes, each at the same number of neighbours."""
    looks = [turn(frames, most, first + number) for number in range(-(-frames // most))]
    assert {frame for look in looks for frame in look} == set(range(frames))
    assert {len(look) for look in looks} == {min(frames, most)}
