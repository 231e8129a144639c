"""An image's random numbers depend on its own seed alone."""

import torch

from pack.guidance.noise import StepNoise, initial_noise


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
