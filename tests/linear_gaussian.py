"""A world in which every guided prediction is known on paper."""


class LinearGaussian:
    """x0 ~ N(mean, spread^2), y = x0 + N(0, error^2), x = a x0 + b noise with everything known."""

    mean, spread, error, y = 0.4, 1.7, 0.6, -1.1

    def __init__(self, signal, noise):
        self.a, self.b = signal, noise

    def denoised(self, x):
        """E[x0 | x]."""
        gain = self.a * self.spread**2 / (self.a**2 * self.spread**2 + self.b**2)
        return self.mean + gain * (x - self.a * self.mean)

    def log_y(self, x):
        """log p(y | x) up to a constant: y given x is Gaussian around E[x0 | x]."""
        return -((self.y - self.denoised(x)) ** 2) / (2 * (self.covariance + self.error**2))

    @property
    def covariance(self):
        """Var[x0 | x]."""
        return self.spread**2 * self.b**2 / (self.a**2 * self.spread**2 + self.b**2)

    def posterior_mean(self, x):
        """E[x0 | x, y]: three Gaussian opinions weighted by their precisions."""
        precision = 1 / self.spread**2 + self.a**2 / self.b**2 + 1 / self.error**2
        total = self.mean / self.spread**2 + self.a * x / self.b**2 + self.y / self.error**2
        return total / precision
