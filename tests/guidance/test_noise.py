"""An image's random numbers depend on its own seed alone."""

import torch

from pack.guidance.noise import StepNoise, initial_noise, own_noise


def test_image_i_of_a_batch_starts_as_seed_plus_i_alone():
    batch = initial_noise((4, 3, 8, 8), 10, range(4))
    alone = initial_noise((1, 3, 8, 8), 12, range(1))
    assert torch.equal(batch[2:3], alone)


LEVELS = (80.0, 5.0, 0.3)


def noises(seed, count, levels=LEVELS):
    return StepNoise(torch.zeros(count, 3, 8, 8), seed, range(count), levels)


def test_image_i_of_a_batch_draws_its_own_step_noise():
    batch, alone = noises(10, 4), noises(12, 1)
    for step in range(3):
        assert torch.equal(batch(step)[2:3], alone(step))


def test_a_run_cut_in_two_draws_what_the_whole_run_draws():
    whole, rest = noises(5, 2), noises(5, 2, LEVELS[1:])
    assert torch.equal(whole(1), rest(0)) and torch.equal(whole(2), rest(1))
    assert not torch.equal(whole(0), rest(0))


def test_the_steps_do_not_repeat_the_initial_noise_or_each_other():
    start = initial_noise((1, 3, 8, 8), 5, range(1))
    noise = noises(5, 1)
    first, second = noise(0), noise(1)
    assert not torch.equal(first, start) and not torch.equal(first, second)
    assert abs(torch.corrcoef(torch.stack([first.flatten(), start.flatten()]))[0, 1]) < 0.25


def test_the_noise_of_a_purpose_belongs_to_the_image_the_step_and_the_seed():
    whole = own_noise((3, 2, 4), 7, range(3), 2, 0, 5)
    for index in range(3):
        assert torch.equal(whole[index : index + 1], own_noise((1, 2, 4), 7 + index, [0], 2, 0, 5))
    others = [
        own_noise((3, 2, 4), seed, range(3), *what) for what, seed in (((2, 0, 6), 7), ((2, 1, 5), 7), ((2, 0, 5), 9))
    ]
    assert not any(torch.equal(whole, other) for other in others)
    assert not torch.equal(whole[0], whole[1])
    assert torch.isfinite(own_noise((2, 4), 2**64 - 1, range(2), 1)).all()
