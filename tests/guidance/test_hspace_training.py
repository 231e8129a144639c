"""The losses of Asyrp's training, against the paper's formulas."""

import math

import pytest
import torch

from guidance.hspace_training import LOSSES, directional, reconstruction, text_direction


def random(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_change_along_the_texts_costs_nothing_and_one_against_them_two():
    source, target = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    delta = text_direction(source, target)
    torch.testing.assert_close(delta, torch.tensor([[-1.0, 1.0, 0.0]]) / math.sqrt(2), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(directional(3 * target, 5 * source, delta), torch.zeros(1), rtol=0, atol=1e-6)
    torch.testing.assert_close(directional(source, target, delta), torch.tensor([2.0]), rtol=1e-6, atol=1e-6)


def test_directional_is_the_papers_for_each_picture_alone():
    a, b, delta = random(4, 8, seed=0), random(4, 8, seed=1), text_direction(random(1, 8, seed=2), random(1, 8, seed=3))
    expected = []
    for one, other in zip(a.double(), b.double(), strict=True):
        apart = one / one.norm() - other / other.norm()
        expected.append(1 - float(apart @ delta[0].double()) / float(apart.norm()))
    torch.testing.assert_close(directional(a, b, delta), torch.tensor(expected).float(), atol=1e-6, rtol=0)


def test_the_codes_loss_is_minus_log_of_the_share_that_is_right():
    l_dir = torch.tensor([0.0, 0.5, 1.5])
    torch.testing.assert_close(LOSSES["paper"](l_dir), l_dir, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(LOSSES["code"](l_dir), -torch.log((2 - l_dir) / 2), rtol=1e-6, atol=1e-6)
    assert torch.isfinite(LOSSES["code"](torch.tensor([2.0]))).all()


def test_reconstruction_is_the_mean_absolute_difference_of_each_picture():
    a, b = random(3, 3, 4, 4, seed=4), random(3, 3, 4, 4, seed=5)
    torch.testing.assert_close(reconstruction(a, b), (a - b).abs().mean((1, 2, 3)), rtol=1e-6, atol=1e-6)


def test_texts_that_read_the_same_are_refused():
    same = random(1, 8, seed=6)
    with pytest.raises(ValueError, match="mean the same"):
        text_direction(same, 2 * same)


def test_an_edit_of_nothing_has_a_finite_gradient():
    a = random(2, 8, seed=7).requires_grad_(True)
    directional(a, a.detach(), text_direction(random(1, 8, seed=2), random(1, 8, seed=3))).sum().backward()
    assert a.grad is not None and 0 < float(a.grad.abs().max()) < 1e3
