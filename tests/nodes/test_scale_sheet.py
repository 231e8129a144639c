"""Scale Values and Scale Sheet: one setting against seeds, laid out as rows and columns."""

import pytest
import torch

pytestmark = pytest.mark.host


def test_each_value_meets_each_seed_row_by_row(execute):
    values, seeds = execute("Guidance_ScaleValues", values="0, 0.5,-2", seed=7, seeds=2)
    assert values == [0.0, 0.0, 0.5, 0.5, -2.0, -2.0]
    assert seeds == [7, 8] * 3


@pytest.mark.parametrize("values", ["", "a, 1", "nan", "1, inf", ", ,"])
def test_values_that_are_no_numbers_are_refused(execute, values):
    with pytest.raises(ValueError, match="numbers between commas are needed.*input 'values'"):
        execute("Guidance_ScaleValues", values=values)


def test_more_runs_than_a_sheet_holds_are_refused(execute):
    with pytest.raises(ValueError, match="5 values with 16 seeds are 80 runs, and 64 are the most"):
        execute("Guidance_ScaleValues", values="1,2,3,4,5", seeds=16)


def sheet(execute, images, **inputs):
    values, seeds = execute("Guidance_ScaleValues", values="0, 1", seed=3, seeds=2)
    given = {"images": images, "value": values, "seed": seeds, "setting": ["weight"], "scale": [1], **inputs}
    return execute("Guidance_ScaleSheet", **given)[0]


def test_a_picture_stands_in_the_row_of_its_value_and_the_column_of_its_seed(execute):
    """Title 16, caption 12, a gap of 2 around each picture: pixel positions follow."""
    images = [torch.full((1, 64, 64, 3), level) for level in (0.1, 0.2, 0.3, 0.4)]
    (found,) = sheet(execute, images)
    assert found.shape == (2 * (16 + 12 + 64 + 4), 2 * (64 + 4), 3)
    for row in (0, 1):
        for column in (0, 1):
            top, left = 96 * row + 16 + 2 + 12, 68 * column + 2
            place = found[top : top + 64, left : left + 64]
            assert torch.equal(place, images[2 * row + column][0])


def test_rows_differ_in_their_titles_alone_and_columns_in_their_captions(execute):
    (found,) = sheet(execute, [torch.zeros(1, 64, 64, 3)] * 4)
    first, second = found[:96], found[96:]
    assert not torch.equal(first[:16], second[:16]) and torch.equal(first[16:], second[16:])
    assert not torch.equal(first[16:28, :68], first[16:28, 68:]) and torch.equal(first[30:, :68], first[30:, 68:])


def test_batches_stand_side_by_side(execute):
    (found,) = sheet(execute, [torch.zeros(3, 32, 32, 3)] * 4)
    assert found.shape == (2 * (16 + 12 + 32 + 4), 6 * (32 + 4), 3)


def test_pictures_that_are_no_pairs_or_of_two_sizes_are_refused(execute):
    with pytest.raises(ValueError, match="one picture or batch for each pair.* 3 came for 4.*input 'images'"):
        sheet(execute, [torch.zeros(1, 8, 8, 3)] * 3)
    with pytest.raises(ValueError, match="pictures of one size are needed, these are 16 x 8 and 8 x 8.*input 'images'"):
        sheet(execute, [torch.zeros(1, 8, 8, 3)] * 3 + [torch.zeros(1, 8, 16, 3)])
