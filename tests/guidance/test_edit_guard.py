"""What is held of a source, and where an edit acts, against algebra."""

import pytest
import torch

from pack.guidance.edit_guard import ALL, COLOURS, blurred, held, where_edited


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


SHAPES = [(2, 3, 8, 8), (2, 4, 3, 8, 8)]  # pictures, videos


def half(shape):
    """Free in the left half."""
    free = torch.zeros(1, 1, *[1] * (len(shape) - 4), 8, 8)
    free[..., :4] = 1
    return free


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_all_is_the_line_to_the_source_where_it_is_held_and_nothing_elsewhere(shape, strength):
    denoised, source = draw(*shape), draw(*shape, seed=1)
    found = held(denoised, source, half(shape), strength, ALL)
    assert torch.equal(found[..., :4], denoised[..., :4])
    expected = (1 - strength) * denoised[..., 4:] + strength * source[..., 4:]
    torch.testing.assert_close(found[..., 4:], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("what", [ALL, COLOURS])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_white_mask_changes_no_bit(shape, what):
    denoised = draw(*shape)
    assert torch.equal(held(denoised, draw(*shape, seed=1), torch.ones_like(half(shape)), 1.0, what), denoised)


def test_between_white_and_black_the_hold_is_proportional():
    denoised, source = draw(1, 3, 8, 8), draw(1, 3, 8, 8, seed=1)
    found = held(denoised, source, torch.full((1, 1, 8, 8), 0.25), 0.5, ALL)
    torch.testing.assert_close(found, denoised + 0.375 * (source - denoised), atol=1e-6, rtol=0)


def test_colours_take_a_plain_shift_away_whatever_is_free():
    """Normalised convolution: a difference that is the same everywhere is averaged to itself, up to the mask's edge."""
    denoised = draw(2, 3, 16, 16)
    shift = torch.tensor([0.5, -1.0, 0.25])[None, :, None, None]
    source = denoised + shift
    free = torch.zeros(1, 1, 16, 16)
    free[..., 4:9, 5:12] = 1
    source = torch.where(free > 0, 100.0, source)  # what the source shows where the edit acts has no say
    found = held(denoised, source, free, 1.0, COLOURS)
    torch.testing.assert_close(found, torch.where(free > 0, denoised, denoised + shift), atol=2e-5, rtol=0)


def test_colours_leave_details_alone():
    """A checkerboard between source and prediction has no low frequencies."""
    denoised = torch.zeros(1, 1, 32, 32)
    board = ((torch.arange(32)[:, None] + torch.arange(32)) % 2 * 2 - 1).float()[None, None]
    found = held(denoised, denoised + board, torch.zeros(1, 1, 32, 32), 1.0, COLOURS)
    assert found[..., 12:-12, 12:-12].abs().max() < 1e-3


@pytest.mark.parametrize("dims", [(), (3,)])
def test_the_mask_is_where_two_predictions_differ(dims):
    original = draw(1, 3, *dims, 32, 32)
    edited = original.clone()
    edited[..., 8:16, 10:20] += 1.0
    mask = where_edited(edited, original, threshold=1.5, soften=0.0)
    expected = torch.zeros_like(mask)
    expected[..., 8:16, 10:20] = 1
    assert torch.equal(mask, expected)


def test_a_softened_mask_covers_what_was_changed_and_fades():
    original = draw(1, 3, 32, 32)
    edited = original.clone()
    edited[..., 8:16, 10:20] += 1.0
    mask = where_edited(edited, original, threshold=1.5, soften=0.04)
    assert mask[..., 9:15, 11:19].min() > 0.99 and mask[..., 8:16, 10:20].min() > 0.6
    assert mask.min() >= 0 and mask.max() <= 1 and mask[..., 24:, :].max() == 0


def test_each_picture_has_its_own_mean():
    """A strong edit of one doesn't hide a weak one of another."""
    original = draw(2, 3, 16, 16)
    edited = original.clone()
    edited[0, :, :4] += 10.0
    edited[1, :, 8:12] += 0.1
    together = where_edited(edited, original, 1.5, 0.05)
    alone = [where_edited(edited[k : k + 1], original[k : k + 1], 1.5, 0.05) for k in range(2)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-6, rtol=0)
    assert together[1, :, 9:11].min() > 0.5


def test_nothing_is_free_where_nothing_changes():
    same = draw(1, 3, 16, 16)
    assert not where_edited(same, same, 1.5, 0.04).any()


def test_a_blur_is_a_gaussian():
    """Of a point: its second moment is the square of the deviation."""
    point = torch.zeros(1, 1, 41, 41)
    point[..., 20, 20] = 1
    spread = blurred(point, 3.0)[0, 0]
    place = torch.arange(41.0) - 20
    assert spread.sum().item() == pytest.approx(1, abs=1e-5)
    assert (spread.sum(0) * place**2).sum().item() == pytest.approx(9, rel=0.04)  # three deviations hold so much
