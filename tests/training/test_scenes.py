"""The renderer draws what it says it draws."""

import torch

from training import scenes


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_same_seed_draws_the_same_pictures():
    first, second = (scenes.render(scenes.draw(32, generator(3))).image for _ in range(2))
    assert torch.equal(first, second)


def test_shape_and_background_never_share_a_colour():
    drawn = scenes.draw(4096, generator())
    assert not (drawn.colour == drawn.background).any()


def test_a_fixed_attribute_stays_fixed_and_the_colours_stay_apart():
    wanted = torch.arange(4096) % 8
    drawn = scenes.draw(4096, generator(), background=wanted)
    assert torch.equal(drawn.background, wanted)
    assert not (drawn.colour == drawn.background).any()


def test_every_class_is_drawn_about_equally_often():
    labels = scenes.draw(20_000, generator()).labels()
    for column, names in enumerate(scenes.CLASSES.values()):
        shares = torch.bincount(labels[:, column], minlength=len(names)) / len(labels)
        assert (shares - 1 / len(names)).abs().max() < 0.015


def test_outside_the_mask_the_picture_is_the_background_colour():
    drawn = scenes.draw(64, generator())
    rendered = scenes.render(drawn)
    palette = torch.tensor(list(scenes.COLOURS.values()))
    colour = (palette[drawn.background] + drawn.jitter[:, 1]).clamp(0, 1) * 2 - 1
    difference = (rendered.image - colour[:, :, None, None]).abs() * (rendered.mask == 0)
    assert difference.max() < 1e-6


def test_a_flat_circle_covers_the_area_of_a_circle():
    size = torch.full((1,), 0.5)
    drawn = scenes.draw(1, generator(), shape=torch.tensor([0]), size=size, centre=torch.zeros(1, 2))
    area = scenes.render(drawn, 128).mask.mean() * 4
    torch.testing.assert_close(area, torch.tensor(torch.pi * (0.92 * 0.5) ** 2), rtol=5e-3, atol=0)


def test_shapes_stay_inside_the_frame():
    rendered = scenes.render(scenes.draw(2048, generator()))
    edge = torch.cat([rendered.mask[..., 0], rendered.mask[..., -1]], dim=-1)
    assert (edge > 0.5).float().mean() < 0.01


def test_a_caption_names_what_is_drawn_and_may_leave_words_out():
    drawn = scenes.draw(16, generator())
    full = scenes.caption(drawn)
    for line, (shape, colour, background, texture) in zip(full, drawn.labels().tolist(), strict=True):
        assert line == (
            f"a {scenes.CLASSES['texture'][texture]} {scenes.CLASSES['colour'][colour]} "
            f"{scenes.CLASSES['shape'][shape]} on a {scenes.CLASSES['background'][background]}"
        )
    short = scenes.caption(drawn, generator())
    assert all(scenes.CLASSES["shape"][shape] in line for line, shape in zip(short, drawn.shape.tolist(), strict=True))
    assert short != full
