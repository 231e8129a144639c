"""log p(y | x) and its gradient."""

import torch

from pack.guidance.classifier_energy import NO_CLASS, ClassifierEnergy, log_probability
from pack.guidance.gradient import gradient

LOGITS = torch.tensor([[1.0, 2.0, 0.5, 3.0, -1.0], [0.0, 1.0, 2.0, -2.0, 4.0]])


def test_one_group_is_a_plain_log_softmax():
    value = log_probability(LOGITS, torch.tensor([3, 0]), (5,))
    torch.testing.assert_close(value, LOGITS.log_softmax(1)[[0, 1], [3, 0]], rtol=1e-6, atol=1e-6)


def test_each_group_has_its_own_softmax():
    value = log_probability(LOGITS, torch.tensor([1, 4]), (2, 3))
    expected = torch.stack([LOGITS[0, :2].log_softmax(0)[1], LOGITS[1, 2:].log_softmax(0)[2]])
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)


def test_an_image_without_a_class_has_no_gradient_and_leaves_the_others_alone():
    weights = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))

    def logits(x, sigma):
        return x.flatten(1) @ weights.T

    x, sigma = torch.randn(2, 3, 1, 1), torch.ones(2)
    both = gradient(ClassifierEnergy(logits, torch.tensor([2, NO_CLASS]), (5,)), x, sigma)
    alone = gradient(ClassifierEnergy(logits, torch.tensor([2]), (5,)), x[:1], sigma[:1])
    assert torch.equal(both[1], torch.zeros(3, 1, 1))
    torch.testing.assert_close(both[:1], alone, rtol=1e-6, atol=1e-6)


def test_the_gradient_is_the_closed_form_for_linear_logits():
    weights = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = torch.randn(1, 3, 1, 1, dtype=torch.float64)

    def logits(x, sigma):
        return x.flatten(1) @ weights.T

    p = (weights @ x.flatten()).softmax(0)
    expected = -(weights[4] - p @ weights).view(1, 3, 1, 1)
    found = gradient(ClassifierEnergy(logits, torch.tensor([4]), (5,)), x, torch.ones(1))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
