"""An image's random numbers depend on its own seed alone."""

import torch

from pack.guidance.noise import StepNoise, initial_noise


def test_image_i_of_a_batch_starts_as_seed_plus_i_alone():
    batch = initial_noise((4, 3, 8, 8), 10, range(4))
    alone = initial_noise((1, 3, 8, 8), 12, range(1))
    assert torch.equal(batch[2:3], alone)


def test_image_i_of_a_batch_draws_its_own_step_noise():
    batch, alone = StepNoise(torch.zeros(4, 3, 8, 8), 10, range(4)), StepNoise(torch.zeros(1, 3, 8, 8), 12, range(1))
    for step in range(3):
        assert torch.equal(batch(step)[2:3], alone(step))


def test_the_steps_do_not_repeat_the_initial_noise_or_each_other():
    start = initial_noise((1, 3, 8, 8), 5, range(1))
    noise = StepNoise(start, 5, range(1))
    first, second = noise(0), noise(1)
    assert not torch.equal(first, start) and not torch.equal(first, second)
    assert abs(torch.corrcoef(torch.stack([first.flatten(), start.flatten()]))[0, 1]) < 0.25
