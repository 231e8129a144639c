"""Contact sheets."""

import pytest
import torch

pytestmark = pytest.mark.host


def test_pictures_stand_in_rows_enlarged_without_smoothing(execute):
    images = torch.rand(5, 4, 6, 3)
    (sheet,) = execute("Guidance_ContactSheet", images={"image0": images}, columns=3, scale=2)
    assert sheet.shape == (1, 2 * (8 + 4), 3 * (12 + 4), 3)
    fourth = sheet[0, 12 + 2 : 12 + 10, 2:14]
    assert torch.equal(fourth[::2, ::2], images[3]) and torch.equal(fourth[1::2, 1::2], images[3])
    assert (sheet[0, 12:, 32:] == 1).all()


def test_batches_follow_each_other(execute):
    first, second = torch.zeros(2, 4, 4, 3), torch.ones(1, 4, 4, 3) * 0.5
    (sheet,) = execute("Guidance_ContactSheet", images={"image0": first, "image1": second}, columns=3, scale=1)
    assert sheet.shape == (1, 8, 24, 3)
    assert (sheet[0, 2:6, 18:22] == 0.5).all()


def test_columns_zero_makes_a_square(execute):
    (sheet,) = execute("Guidance_ContactSheet", images={"image0": torch.zeros(9, 4, 4, 3)}, columns=0, scale=1)
    assert sheet.shape == (1, 24, 24, 3)


def test_captions_stand_above_the_pictures_and_start_again(execute):
    images = torch.zeros(4, 32, 32, 3)
    (sheet,) = execute("Guidance_ContactSheet", images={"image0": images}, columns=4, labels="A;B", scale=1)
    tops = [sheet[0, 2:14, 2 + 36 * k : 34 + 36 * k] for k in range(4)]
    assert torch.equal(tops[0], tops[2]) and torch.equal(tops[1], tops[3])
    assert not torch.equal(tops[0], tops[1])
    assert tops[0].min() < 0.5


def test_transparency_is_left_out(execute):
    (sheet,) = execute("Guidance_ContactSheet", images={"image0": torch.zeros(1, 4, 4, 4)}, scale=1)
    assert sheet.shape[-1] == 3


def test_a_row_title_stands_over_its_row_and_an_empty_line_leaves_the_row_without(execute):
    images = {"image0": torch.zeros(6, 32, 32, 3)}
    (plain,) = execute("Guidance_ContactSheet", images=images, columns=2, scale=1)
    (sheet,) = execute("Guidance_ContactSheet", images=images, columns=2, scale=1, row_titles="without\n\nwith")
    assert sheet.shape[1] == plain.shape[1] + 2 * 16
    rows = plain[0].split(36)
    assert torch.equal(sheet[0, 16 : 16 + 72], torch.cat(rows[:2])) and torch.equal(sheet[0, -36:], rows[2])
    assert sheet[0, :16].min() < 0.5 and sheet[0, 88:104].min() < 0.5


def test_a_row_of_empty_captions_has_no_room_for_them(execute):
    images = {"image0": torch.zeros(4, 32, 32, 3)}
    (sheet,) = execute("Guidance_ContactSheet", images=images, columns=2, scale=1, labels=";;A;B")
    assert sheet.shape[1] == 36 + 36 + 12
    assert (sheet[0, 2:34, 2:34] == 0).all() and sheet[0, 38:50].min() < 0.5


def test_more_titles_than_rows_are_refused(execute):
    images = {"image0": torch.zeros(4, 32, 32, 3)}
    with pytest.raises(ValueError, match=r"row_titles.*these are 3 for 2 rows"):
        execute("Guidance_ContactSheet", images=images, columns=2, scale=1, row_titles="a\nb\nc")
