"""Whatever the settings, a guided run stays finite and near the data: guided steps at random."""

import math
import random

import pytest
import torch

from pack.guidance.combine import steer
from pack.guidance.gradient import Term
from pack.guidance.samplers import move, noise_levels
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


def log_weights(x, sigma, flow=False):
    """log p(picture | x) of six pictures, [B 6]."""
    a = 1 - sigma if flow else torch.ones_like(sigma)
    distance = (x.flatten(1)[:, None] - a[:, None, None] * DATA.flatten(1)[None]).square().sum(2)
    return (-distance / (2 * sigma[:, None].clamp(min=1e-3) ** 2)).log_softmax(1)


def model(x, sigma, flow):
    """Their exact denoiser."""
    return torch.einsum("bm,mchw->bchw", log_weights(x, sigma, flow).exp(), DATA)


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
    """(E, least value) by name, each of them steep somewhere; "classifier" is exact, -log p(first two pictures | x)."""
    scaled = seen(step)
    goal = DATA[:1]
    axis = torch.ones_like(goal).flatten(1)
    return {
        "style": (lambda x, sigma: (gram(scaled(x, sigma)) - gram(goal)).square().flatten(1).mean(1), 0.0),
        "structure": (lambda x, sigma: (scaled(x, sigma) - goal).square().flatten(1).mean(1), 0.0),
        "text": (lambda x, sigma: -torch.cosine_similarity(scaled(x, sigma).flatten(1) + 0.1, axis), -1.0),
        "classifier": (lambda x, sigma: -log_weights(*step.noisy(x))[:, :2].logsumexp(1), None),
        "palette": (lambda x, sigma: (scaled(x, sigma).mean((2, 3)) - goal.mean((2, 3))).square().mean(1), 0.0),
    }


GUIDES = ["style", "structure", "text", "palette"]
SAMPLERS = ["euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_sde"]


def setting(rng):
    exact = rng.random() < 0.25  # its gradient at the noisy sample is never limited, and its scale is what bounds it
    guides = ["classifier"] if exact else rng.sample(GUIDES, rng.choice([1, 1, 2]))
    return {
        "guides": guides,
        "scale": 10 ** (rng.uniform(-2, 2) if exact else rng.uniform(-2, 6)) * rng.choice([1, 1, 1, -1]),
        "relative": rng.choice([True, False, False]),
        "estimator": "at noisy"
        if exact
        else rng.choice(["at noisy", "at noisy", "at denoised", "at denoised optimised"]),
        "cap": rng.choice([0.0, 0.3, 1.0, 3.0]),
        "sampler": rng.choice(SAMPLERS),
        "steps": rng.randint(4, 50),
        "schedule": rng.choice(["linear", "cosine", "zero SNR", "flow 1.0", "flow 3.0"]),
        "denoise": rng.choice([1.0, rng.uniform(0.2, 1.0)]),
        "window": sorted(rng.choice([(0.0, 1.0), (0.0, 1.0), (rng.random(), rng.random())])),
        "masked": rng.random() < 0.3,
        "batch": rng.choice([1, 3]),
        "seed": rng.randrange(10**6),
    }


class Run:
    """One guided run of a setting, with the largest |D| as a root mean square of what guides and model predicted."""

    def __init__(self, how):
        self.how, self.flow = how, how["schedule"].startswith("flow")
        self.levels = levels_of(how["schedule"], how["steps"], how["denoise"])
        if self.flow and how["sampler"] == "dpmpp_sde":
            self.levels[0] = min(self.levels[0], 1 - 1e-4)  # as the host's, whose clock is log SNR
        self.generator = torch.Generator().manual_seed(how["seed"])
        self.largest, self.guided = 0.0, 0
        self.mask = torch.zeros(1, 1, 4, 4)
        self.mask[..., :2] = 1

    def noise(self):
        return torch.randn(self.how["batch"], *SHAPE, generator=self.generator)

    def now(self, level):
        """How far the sampler's step moves x for a shift of the prediction by 1, as the host's guides are told."""
        index = max(0, sum(known >= level for known in self.levels[:-1]) - 1)
        return move(self.how["sampler"], {}, self.levels, index, self.flow).now

    def predict(self, x, level):
        how = self.how
        sigma = torch.full((len(x),), level)
        denoised = model(x, sigma, self.flow)
        place = sum(known > level for known in self.levels) / len(self.levels)
        if not how["window"][0] <= place <= how["window"][1] or level == 0:
            return denoised
        step = Step(x, sigma, denoised, self.flow, DATA_STD, now=self.now(level))
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
            denoised = self.predict(x, level)
            if name == "dpmpp_sde" and following > 0:
                x = self.stochastic(x, denoised, level, following)
                continue
            down, up = noise_levels(level, following, float(name == "euler_ancestral"), flow)
            direct = denoised
            if name == "dpmpp_2m" and old is not None and following > 0:
                ratio = math.log(before / level) / math.log(level / following)
                direct = denoised + (denoised - old) / (2 * ratio)
            moved = direct + down / level * (x - direct)
            if name == "heun" and following > 0:
                second = self.predict(moved, following)
                slope = ((x - denoised) / level + (moved - second) / following) / 2
                moved = x + slope * (following - level)
            share = (1 - following) / (1 - down) if flow else 1.0
            x, old, before = share * moved + (up * self.noise() if up else 0), denoised, level
        return x

    def stochastic(self, x, denoised, level, following):
        """DPM-Solver++ (SDE) with r = 1/2, in X = x / a at S = sigma / a: half of the step, then all."""
        a, after = (1 - level, 1 - following) if self.flow else (1.0, 1.0)
        here, there = level / a, following / after
        between = math.sqrt(here * there)
        share = 1 / (1 + between) if self.flow else 1.0
        down, up = noise_levels(here, between, 1.0, False)
        middle = denoised + down / here * (x / a - denoised) + up * self.noise()
        second = self.predict(share * middle, share * between)
        down, up = noise_levels(here, there, 1.0, False)
        return after * (second + down / here * (x / a - second) + up * self.noise())


def bound(how):
    """|D| a number: the data; 128 deviations of them for each guide, or all those of the cap together.

    The exact gradient of log p(y | x) moves it by scale (E[x0 | x, y] - E[x0 | x]), twice the data at most.
    """
    exact = "classifier" in how["guides"] and not how["relative"]
    return 1 + (2 * abs(how["scale"]) if exact else len(how["guides"]) * FURTHEST * DATA_STD)


@pytest.mark.parametrize("steps", [2_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_guided_steps_of_any_setting_stay_finite_and_near_the_data(steps):
    rng, guided = random.Random(0), 0
    while guided < steps:
        how = setting(rng)
        run = Run(how)
        end = run()
        assert torch.isfinite(end).all() and run.largest <= bound(how) * (1 + 1e-5), (how, run.largest)
        guided += run.guided


def test_the_settings_at_random_hold_each_kind():
    """What the property is asserted of: every value of every setting comes by."""
    drawn = [setting(rng) for rng in [random.Random(0)] for _ in range(400)]
    for key, values in {
        "sampler": SAMPLERS,
        "schedule": ["linear", "cosine", "zero SNR", "flow 1.0", "flow 3.0"],
    }.items():
        assert {how[key] for how in drawn} == set(values)
    assert {name for how in drawn for name in how["guides"]} == {*GUIDES, "classifier"}
    assert {how["steps"] for how in drawn} >= set(range(4, 51))
    assert min(how["denoise"] for how in drawn) < 0.25 and any(how["masked"] for how in drawn)


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
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [8, 20])
def test_a_stiff_style_ends_near_the_data(schedule, sampler, steps):
    """Its gradient grows with the third power of x: unlimited steps have three times as many digits each, up to NaN."""
    end = Run({**BAD, "schedule": schedule, "sampler": sampler, "steps": steps})()
    assert end.abs().max() < 10
