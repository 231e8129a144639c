"""Whatever the settings, a guided run stays finite and near the data: guided steps at random."""

import math
import random

import pytest
import torch

from pack.guidance.combine import steer
from pack.guidance.gradient import Term
from pack.guidance.samplers import first_order, noise_levels
from pack.guidance.step import FURTHEST, Step
from pack.guidance.tensors import append_dims
from pack.models.schedule import NoiseSchedule

SHAPE = (3, 4, 4)
DATA = torch.linspace(-1, 1, 6 * 48, dtype=torch.float64).view(48, 6).T.reshape(6, *SHAPE).float()
DATA = torch.stack([picture.flatten().roll(7 * k).view(SHAPE) for k, picture in enumerate(DATA)])
DATA_STD = 0.58


def levels_of(schedule, steps, denoise):
    """Falling levels that end with 0, of the last `denoise` of a run."""
    total = max(steps, int(steps / denoise))
    if schedule.startswith("flow"):
        shift = float(schedule.split()[1])
        plain = torch.linspace(1, 0, total + 1, dtype=torch.float64)[-(steps + 1) :]
        return (shift * plain / (1 + (shift - 1) * plain)).tolist()
    table = NoiseSchedule.named("cosine" if schedule == "cosine" else "linear").sigmas
    if schedule == "zero SNR":
        root = (1 / (table**2 + 1)).sqrt()
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        root[-1] = 4.8973451890853435e-08**0.5
        table = (1 / root**2 - 1).sqrt()
    places = torch.linspace(len(table) - 1, 0, total).round().long()[-steps:]
    return [*table[places].tolist(), 0.0]


def model(x, sigma, flow):
    """The exact denoiser of six pictures."""
    a = 1 - sigma if flow else torch.ones_like(sigma)
    distance = (x.flatten(1)[:, None] - a[:, None, None] * DATA.flatten(1)[None]).square().sum(2)
    weights = (-distance / (2 * sigma[:, None].clamp(min=1e-3) ** 2)).softmax(1)
    return torch.einsum("bm,mchw->bchw", weights, DATA)


def seen(step):
    """x as noise-aware networks get it, of unit size."""

    def scaled(x, sigma):
        if not sigma.any():
            return x
        a = 1 - sigma if step.flow else torch.ones_like(sigma)
        return x / append_dims((a**2 + sigma**2).sqrt(), x.ndim)

    return scaled


def gram(x):
    flat = x.flatten(2) / 16**0.5
    return flat @ flat.transpose(1, 2)


def energies(step):
    """(E, least value, log-probability's scale or the paper's) by name, each of them steep somewhere."""
    scaled = seen(step)
    goal = DATA[:1]
    axis = torch.ones_like(goal).flatten(1)
    return {
        "style": (lambda x, sigma: (gram(scaled(x, sigma)) - gram(goal)).square().flatten(1).mean(1), 0.0),
        "structure": (lambda x, sigma: (scaled(x, sigma) - goal).square().flatten(1).mean(1), 0.0),
        "text": (lambda x, sigma: -torch.cosine_similarity(scaled(x, sigma).flatten(1) + 0.1, axis), -1.0),
        "palette": (lambda x, sigma: (scaled(x, sigma).mean((2, 3)) - goal.mean((2, 3))).square().mean(1), 0.0),
    }


def setting(rng):
    return {
        "guides": rng.sample(["style", "structure", "text", "palette"], rng.choice([1, 1, 2])),
        "scale": 10 ** rng.uniform(-2, 6) * rng.choice([1, 1, 1, -1]),
        "relative": rng.choice([True, False, False]),
        "estimator": rng.choice(["at noisy", "at noisy", "at denoised", "at denoised optimised"]),
        "cap": rng.choice([0.0, 0.3, 1.0, 3.0]),
        "sampler": rng.choice(["euler", "euler_ancestral", "heun", "dpmpp_2m"]),
        "steps": rng.choice([4, 8, 12, 20, 30, 50]),
        "schedule": rng.choice(["linear", "cosine", "zero SNR", "flow 1.0", "flow 3.0"]),
        "denoise": rng.choice([0.2, 0.5, 1.0, 1.0]),
        "window": sorted(rng.choice([(0.0, 1.0), (0.0, 1.0), (0.2, 0.8)])),
        "masked": rng.random() < 0.3,
        "batch": rng.choice([1, 3]),
        "seed": rng.randrange(10**6),
    }


class Run:
    """One guided run of a setting, with the largest |D| as a root mean square of what guides and model predicted."""

    def __init__(self, how):
        self.how, self.flow = how, how["schedule"].startswith("flow")
        self.levels = levels_of(how["schedule"], how["steps"], how["denoise"])
        self.generator = torch.Generator().manual_seed(how["seed"])
        self.largest, self.guided = 0.0, 0
        self.mask = torch.zeros(1, 1, 4, 4)
        self.mask[..., :2] = 1

    def noise(self):
        return torch.randn(self.how["batch"], *SHAPE, generator=self.generator)

    def predict(self, x, level, now):
        how = self.how
        sigma = torch.full((len(x),), level)
        denoised = model(x, sigma, self.flow)
        place = sum(known > level for known in self.levels) / len(self.levels)
        if not how["window"][0] <= place <= how["window"][1] or level == 0:
            return denoised
        step = Step(x, sigma, denoised, self.flow, DATA_STD, now=now)
        known = energies(step)
        mask = self.mask if how["masked"] else None
        terms = [
            Term(name, known[name][0], how["scale"], how["relative"], how["estimator"], mask, known[name][1])
            for name in how["guides"]
        ]
        found = steer(step, terms, how["cap"], 3).direction
        self.guided += 1
        guided = denoised + found
        self.largest = max(self.largest, (guided.square().flatten(1).mean(1)).sqrt().max().item())
        return guided

    def __call__(self):
        levels, flow, name = self.levels, self.flow, self.how["sampler"]
        clean = DATA[:1] if self.how["denoise"] < 1 else torch.zeros(1, *SHAPE)
        x = (1 - levels[0] if flow else 1.0) * clean + levels[0] * self.noise()
        old, before = None, 0.0
        for level, following in zip(levels, levels[1:], strict=False):
            eta = 1.0 if name == "euler_ancestral" else 0.0
            down, up = noise_levels(level, following, eta, flow)
            denoised = self.predict(x, level, first_order(level, following, eta, flow).now)
            direct = denoised
            if name == "dpmpp_2m" and old is not None and following > 0:
                ratio = math.log(before / level) / math.log(level / following)
                direct = denoised + (denoised - old) / (2 * ratio)
            moved = direct + down / level * (x - direct)
            if name == "heun" and following > 0:
                second = self.predict(moved, following, 1 - following / level)
                slope = ((x - denoised) / level + (moved - second) / following) / 2
                moved = x + slope * (following - level)
            share = (1 - following) / (1 - down) if flow else 1.0
            x, old, before = share * moved + (up * self.noise() if up else 0), denoised, level
        return x


def bound(how):
    """|D| a number: the data, and what each guide, or all those of the cap together, may add."""
    return 1 + len(how["guides"]) * FURTHEST * DATA_STD


@pytest.mark.parametrize("steps", [2_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_guided_steps_of_any_setting_stay_finite_and_near_the_data(steps):
    rng, guided = random.Random(0), 0
    while guided < steps:
        how = setting(rng)
        run = Run(how)
        end = run()
        assert torch.isfinite(end).all() and run.largest <= bound(how) * (1 + 1e-5), (how, run.largest)
        guided += run.guided


BAD = {
    "guides": ["style"],
    "scale": 1e4,
    "relative": False,
    "estimator": "at noisy",
    "cap": 1.0,
    "denoise": 1.0,
    "window": [0.0, 1.0],
    "masked": False,
    "batch": 3,
    "seed": 1,
}


@pytest.mark.parametrize("schedule", ["linear", "cosine", "zero SNR", "flow 3.0"])
@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "heun", "dpmpp_2m"])
@pytest.mark.parametrize("steps", [8, 20])
def test_a_stiff_style_ends_near_the_data(schedule, sampler, steps):
    """Its gradient grows with the third power of x: unlimited steps have three times as many digits each, up to NaN."""
    end = Run({**BAD, "schedule": schedule, "sampler": sampler, "steps": steps})()
    assert end.abs().max() < 10
