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


def test_each_batch_begins_a_row_under_its_title(execute):
    images = {"image0": torch.zeros(3, 32, 32, 3), "image1": torch.zeros(2, 32, 32, 3)}
    (sheet,) = execute("Guidance_ContactSheet", images=images, columns=2, scale=1, titles="without\nwith")
    rows = sheet[0].split([16, 36, 36, 16, 36])
    assert [bool((row == 0).any()) for row in rows] == [True] * 5
    assert (rows[2][:, 36:] == 1).all() and (rows[4][2:34, 38:70] == 0).all()
    assert not torch.equal(rows[0], rows[3])


def test_an_empty_title_leaves_its_batch_without(execute):
    images = {"image0": torch.zeros(2, 32, 32, 3), "image1": torch.zeros(2, 32, 32, 3)}
    (sheet,) = execute("Guidance_ContactSheet", images=images, columns=2, scale=1, titles=";with")
    (plain,) = execute("Guidance_ContactSheet", images=images, columns=2, scale=1)
    assert torch.equal(sheet[0, :36], plain[0, :36]) and torch.equal(sheet[0, 52:], plain[0, 36:])


def test_a_row_of_empty_captions_has_no_room_for_them(execute):
    images = {"image0": torch.zeros(4, 32, 32, 3)}
    (sheet,) = execute("Guidance_ContactSheet", images=images, columns=2, scale=1, labels=";;A;B")
    assert sheet.shape[1] == 36 + 36 + 12
    assert (sheet[0, 2:34, 2:34] == 0).all() and sheet[0, 38:50].min() < 0.5


def test_more_titles_than_batches_are_refused(execute):
    images = {"image0": torch.zeros(4, 32, 32, 3)}
    with pytest.raises(ValueError, match=r"these are 2 for 1.*titles"):
        execute("Guidance_ContactSheet", images=images, columns=2, scale=1, titles="a\nb")


def test_of_a_caption_of_a_million_letters_only_what_can_be_seen_is_drawn(execute, monkeypatch):
    from PIL import ImageDraw

    drawn = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda self, place, text, **_: drawn.append(len(text)))
    images = {"image0": torch.zeros(2, 32, 32, 3)}
    execute("Guidance_ContactSheet", images=images, columns=2, scale=1, labels="l" * 1_000_000)
    assert len(drawn) == 2 and max(drawn) <= 32  # a letter is no narrower than a pixel
