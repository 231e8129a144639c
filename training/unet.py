"""Trains the pack's pixel U-Net: ADM's architecture on 32x32 scenes, one label of any attribute for each picture.

Shape is named with probability .45, colour, background and texture with .15 each, nothing with .10; so one network
gives unconditional, conditional and composable predictions. Hybrid loss of Nichol & Dhariwal 2021, eq. 16.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import torch
from torch import Tensor, nn

from models.adm.network import UNet, UNetConfig
from models.schedule import NoiseSchedule

from .balance import Balance, by_quarter
from .loop import Recipe, Run, arguments, train, zero_outputs
from .scenes import CLASS_NAMES, Scenes, first_index

CONFIG = UNetConfig(
    model_channels=16,
    out_channels=6,
    num_res_blocks=1,
    channel_mult=(1, 2, 4, 8),
    attention=(4, 8),
    num_classes=len(CLASS_NAMES) + 1,
    num_heads=4,
    groups=4,
)
NO_CLASS = len(CLASS_NAMES)
SHARES = {"shape": 0.45, "colour": 0.15, "background": 0.15, "texture": 0.15}  # in the order of CLASSES
BOUNDS = torch.tensor(list(SHARES.values())).cumsum(0).tolist()
SHIPPED = "models/demo/models/scenes_unet.safetensors"
RECIPE = Recipe(images=1_000_000, batch=32)


def choose_labels(labels: Tensor, generator: torch.Generator) -> Tensor:
    """[B 4] attribute classes -> [B] rows of the label table: one attribute each, or no class."""
    none = torch.full_like(labels[:, 0], NO_CLASS)
    named = torch.stack([*(labels[:, k] + first_index(name) for k, name in enumerate(SHARES)), none], dim=1)
    u = torch.rand(len(labels), generator=generator, device=labels.device)
    chosen = torch.stack([u > bound for bound in BOUNDS]).sum(0)
    return named.gather(1, chosen[:, None])[:, 0]


def _normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def _bits(x0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """-log2 of the probability that a Gaussian gives the 8-bit value x0 in [-1, 1]."""
    inverse = torch.exp(-0.5 * log_variance)
    upper = _normal_cdf((x0 - mean + 1 / 255) * inverse).where(x0 < 0.999, 1.0)
    lower = _normal_cdf((x0 - mean - 1 / 255) * inverse).where(x0 > -0.999, 0.0)
    return -(upper - lower).clamp(min=1e-12).log2()


class HybridLoss:
    """Balanced eps-MSE + the variational bound for v alone: its mean is detached. Both of [B C H W]."""

    def __init__(self, schedule: NoiseSchedule, device: str):
        ab, previous, beta = schedule.alphas_cumprod, schedule.previous, schedule.betas
        tables = {
            "signal": ab.sqrt(),
            "noise": (1 - ab).sqrt(),
            "mean_x0": beta * previous.sqrt() / (1 - ab),
            "mean_x": (1 - previous) * (1 - beta).sqrt() / (1 - ab),
            "log_large": beta.log(),
            "log_small": schedule.posterior_log_variance,
        }
        self.tables = {key: table.float().to(device) for key, table in tables.items()}
        self.balance = Balance(len(ab), device)

    def __call__(
        self, network: nn.Module, scenes: Scenes, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        x0 = scenes.image
        t = torch.randint(len(self.tables["signal"]), (len(x0),), generator=generator, device=x0.device)
        at = {key: table[t][:, None, None, None] for key, table in self.tables.items()}
        noise = torch.randn(x0.shape, generator=generator, device=x0.device)
        x = at["signal"] * x0 + at["noise"] * noise
        eps, v = self.predict(network, x, t, scenes, generator).float().chunk(2, dim=1)

        mse = (eps - noise).square().flatten(1).mean(1)
        predicted = (x - at["noise"] * eps.detach()) / at["signal"]
        true_mean = at["mean_x0"] * x0 + at["mean_x"] * x
        mean = at["mean_x0"] * predicted + at["mean_x"] * x
        log_variance = torch.lerp(at["log_small"], at["log_large"], (v + 1) / 2)
        gap = at["log_small"] - log_variance
        kl = 0.5 * (gap.exp() - 1 - gap + (true_mean - mean).square() * torch.exp(-log_variance)) / math.log(2)
        bound = torch.where((t == 0)[:, None, None, None], _bits(x0, mean, log_variance), kl).flatten(1).mean(1)

        report = {"mse": mse.mean(), "bound": bound.mean(), **by_quarter(mse, t)}
        return self.balance(mse, t).mean() + bound.mean(), report

    def predict(self, network: nn.Module, x: Tensor, t: Tensor, scenes: Scenes, generator: torch.Generator) -> Tensor:
        """What the network makes of x_t, told something of the scenes: [B 6 H W]."""
        return network(x, t, choose_labels(scenes.attributes.labels(), generator))


METADATA = {
    "architecture": "adm_unet",
    "config": json.dumps(asdict(CONFIG)),
    "schedule": "linear",
    "image_size": "32",
    "class_names": json.dumps(CLASS_NAMES),
    "no_class": str(NO_CLASS),
}


def main() -> None:
    recipe, given = arguments(SHIPPED, RECIPE)
    torch.manual_seed(recipe.seed)
    network = UNet(CONFIG)
    zero_outputs(network)
    loss = HybridLoss(NoiseSchedule.named("linear"), given.device)
    train(Run(network, recipe, given.device, METADATA), loss, given)


if __name__ == "__main__":
    main()
