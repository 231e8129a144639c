"""A denoiser computed from a finite set of pictures: no training, exact class probabilities."""

import torch


class ExactDenoiser:
    """Data that is one of M pictures with equal chance, x = x_i + sigma noise.

    denoised = sum_i p(i | x) x_i with p(i | x) = softmax_i(-|x - x_i|^2 / (2 sigma^2)); a class is a set of pictures,
    and p(y | x) is the sum of its members' p(i | x).
    """

    def __init__(self, pictures, labels):
        self.pictures = pictures.double()  # [M C H W]
        self.labels = labels  # [M]

    def log_weights(self, x, sigma):
        """[B M]: log p(i | x)."""
        distance = (x.flatten(1)[:, None] - self.pictures.flatten(1)[None]).square().sum(2)
        return (-distance / (2 * sigma[:, None] ** 2)).log_softmax(1)

    def __call__(self, x, sigma):
        return torch.einsum("bm,mchw->bchw", self.log_weights(x, sigma).exp(), self.pictures)

    def log_probability(self, x, sigma, y):
        """log p(y | x), [B]."""
        return self.log_weights(x, sigma).masked_fill((self.labels != y)[None], -torch.inf).logsumexp(1)

    def of_class(self, y):
        """The denoiser of one class alone."""
        members = self.labels == y
        return ExactDenoiser(self.pictures[members], self.labels[members])
