"""`python dev.py bench diffae`: what the small diffusion autoencoder keeps, and what its codes are good for.

In pure torch, DDIM throughout: 256 held-out scenes, T = 100; the shipped U-Net beside it. Judged by `bench/judge`.
Writes `bench/results/diffae.json` part by part, so a run resumes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from guidance.directions import cross_validated, fit_logistic
from guidance.latents import lerp, moved, normalised, sample_prior, slerp
from guidance.sampling import respaced
from models.registry import DEMO, load_checkpoint
from models.schedule import NoiseSchedule
from training.codes import SCHEDULE, Predict, decode, encode, in_parts
from training.scenes import CLASSES, Scenes, draw, render

from . import judge, made_with
from .host_server import PACK

RESULT = PACK / "bench" / "results" / "diffae.json"
COUNT, STEPS, SEED = 256, 100, 660_013  # no training script uses the seed
ATTRIBUTES = list(CLASSES)


class Models:
    def __init__(self) -> None:
        self.diffae = self._load("scenes_diffae.safetensors")
        self.unet = self._load("scenes_unet.safetensors")
        beside = load_checkpoint(DEMO / "models" / "scenes_diffae.safetensors", "model").beside
        self.mean, self.std = (beside[key].float().flatten() for key in ("conds_mean", "conds_std"))

    def _load(self, name: str) -> Any:
        checkpoint = load_checkpoint(DEMO / "models" / name, "model")
        network: Any = checkpoint.build()
        network.load_state_dict({key: value.float() for key, value in checkpoint.state.items()})
        self.no_class = checkpoint.facts.no_class or 0
        return network.eval().to(memory_format=torch.channels_last)  # a fifth faster on a CPU

    def semantic(self, z_sem: Tensor) -> Predict:
        return lambda x, t, rows: self.diffae(x, t, z_sem[rows])

    def plain(self) -> Predict:
        """The U-Net without a class."""
        return lambda x, t, rows: self.unet(x, t, torch.full((len(x),), self.no_class))[:, :3]


def right(images: Tensor, labels: Tensor) -> dict[str, float]:
    said = judge.classify(images)
    return {key: round((said[key] == labels[:, k]).float().mean().item(), 4) for k, key in enumerate(ATTRIBUTES)}


def ssim(a: Tensor, b: Tensor) -> float:
    """Mean structural similarity of pictures in [0, 1], 11 x 11 Gaussian of 1.5 (Wang et al. 2004)."""
    axis = torch.arange(11.0) - 5
    line = torch.exp(-(axis**2) / (2 * 1.5**2))
    window = torch.outer(line, line)[None, None] / line.sum() ** 2
    a, b = (part.reshape(-1, 1, *part.shape[2:]) for part in (a, b))
    mean_a, mean_b = conv2d(a, window), conv2d(b, window)
    var_a, var_b = conv2d(a * a, window) - mean_a**2, conv2d(b * b, window) - mean_b**2
    both = conv2d(a * b, window) - mean_a * mean_b
    top = (2 * mean_a * mean_b + 1e-4) * (2 * both + 9e-4)
    return float((top / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4))).mean())


def row(images: Tensor, scenes: Scenes) -> dict[str, Any]:
    """A line of the paper's table: MSE and SSIM on [0, 1], distance of the judge's features, labels kept."""
    a, b = ((part.clamp(-1, 1) + 1) / 2 for part in (images, scenes.image))
    apart = judge.load().features(images.clamp(-1, 1)) - judge.load().features(scenes.image)
    scale = judge.load().features(scenes.image).norm(dim=1).mean()
    return {
        "mse": round(float((a - b).square().mean()), 6),
        "ssim": round(ssim(a, b), 4),
        "judge_distance": round(float(apart.norm(dim=1).mean() / scale), 4),
        "labels": right(images, scenes.attributes.labels()),
    }


def held_out(count: int = COUNT, seed: int = SEED, **fixed: Tensor) -> Scenes:
    return render(draw(count, torch.Generator().manual_seed(seed), **fixed))


def noise(count: int, seed: int) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def reconstruction(models: Models) -> dict[str, Any]:
    scenes = held_out()
    semantic, plain = models.semantic(models.diffae.encoder(scenes.image)), models.plain()
    return {
        "z_sem + x_T": row(decode(semantic, encode(semantic, scenes.image, STEPS), STEPS), scenes),
        "DDIM inversion of the U-Net": row(decode(plain, encode(plain, scenes.image, STEPS), STEPS), scenes),
        "z_sem, random x_T": row(decode(semantic, noise(COUNT, 1), STEPS), scenes),
    }


def probe(models: Models) -> dict[str, float]:
    """Multinomial logistic regression on z_sem: 3000 scenes to fit, 1024 others to read."""
    fit, test = held_out(3000, SEED + 1), held_out(1024, SEED + 2)
    z, others = (
        normalised(in_parts(lambda x, rows: models.diffae.encoder(x), part.image, 256), models.mean, models.std)
        for part in (fit, test)
    )
    found: dict[str, float] = {}
    for k, name in enumerate(ATTRIBUTES):
        with torch.enable_grad():
            line = torch.nn.Linear(z.shape[1], len(CLASSES[name]))
            optimizer = torch.optim.LBFGS(line.parameters(), max_iter=100)

            def loss(k: int = k, line: Any = line, optimizer: Any = optimizer) -> Tensor:
                optimizer.zero_grad()
                value = torch.nn.functional.cross_entropy(line(z), fit.attributes.labels()[:, k])
                value = value + 1e-4 * line.weight.square().sum()
                value.backward()
                return value

            optimizer.step(loss)  # pyright: ignore
        hits = line(others).argmax(1) == test.attributes.labels()[:, k]
        found[name] = round(hits.float().mean().item(), 4)
    return found


def predicted(models: Models) -> dict[str, dict[str, float]]:
    """Mean squared error of the predicted x0 by noise level, with z_sem and without."""
    scenes = held_out()
    x0, drawn = scenes.image, noise(COUNT, 2)
    semantic, plain = models.semantic(models.diffae.encoder(x0)), models.plain()
    table: dict[str, dict[str, float]] = {}
    for t in range(50, 1000, 100):
        ab = SCHEDULE.alphas_cumprod[t].float()
        x = ab.sqrt() * x0 + (1 - ab).sqrt() * drawn
        errors = {}
        for name, predict in (("with z_sem", semantic), ("without", plain)):
            eps = in_parts(lambda part, rows, predict=predict, t=t: predict(part, torch.full((len(part),), t), rows), x)
            guess = ((x - (1 - ab).sqrt() * eps) / ab.sqrt()).clamp(-1, 1)
            errors[name] = round(float((guess - x0).square().mean()), 5)
        table[str(t)] = errors
    return table


def eight_noises(models: Models) -> dict[str, Any]:
    """One z_sem, eight x_T: labels kept, pixels different."""
    scenes = held_out(32)
    z_sem = models.diffae.encoder(scenes.image).repeat_interleave(8, 0)
    images = decode(models.semantic(z_sem), noise(256, 3), 50)
    spread = images.unflatten(0, (32, 8)).std(1).mean().item() / 2
    return {"labels": right(images, scenes.attributes.labels().repeat_interleave(8, 0)), "pixel_std": round(spread, 4)}


def prior(models: Models) -> dict[str, float]:
    """KID of samples, to 2048 scenes: latent prior and decoder against the U-Net."""
    from .cfg import kid

    real = in_parts(lambda x, rows: judge.load().features(x), held_out(2048, SEED + 3).image, 256)
    z_sem = new_codes(models, COUNT, 4)
    ours = decode(models.semantic(z_sem), noise(COUNT, 5), 50)
    theirs = decode(models.plain(), noise(COUNT, 5), 50)
    both = {"diffae": ours, "unet": theirs}
    return {name: round(kid(judge.load().features(part.clamp(-1, 1)), real), 4) for name, part in both.items()}


def new_codes(models: Models, count: int, seed: int) -> Tensor:
    drawn = torch.randn(count, len(models.mean), generator=torch.Generator().manual_seed(seed))
    sigmas = NoiseSchedule.named("const0.008").sigmas
    return sample_prior(models.diffae.latent_net, drawn, respaced("ddim100"), sigmas) * models.std + models.mean


def few_shot(models: Models) -> dict[str, Any]:
    """A class from 50 pictures of it and 50 of anything: the prior's codes of so high a probability, decoded."""
    found: dict[str, Any] = {}
    for attribute, index in (("colour", 0), ("background", 7), ("shape", 3), ("texture", 2)):
        fixed = {attribute: torch.full((50,), index)}
        sets = (held_out(50, SEED + 70, **fixed), held_out(50, SEED + 71))
        line = fit_logistic(*(normalised(models.diffae.encoder(part.image), models.mean, models.std) for part in sets))
        codes = new_codes(models, 2048, 6)
        odds = line.log_odds(normalised(codes, models.mean, models.std))
        parts = {}
        for threshold in (0.5, 0.9):
            fits = odds.sigmoid() >= threshold
            taken = codes[fits][:64]
            images = decode(models.semantic(taken), noise(len(taken), 7), 50)
            shows = (judge.classify(images)[attribute] == index).float().mean().item()
            parts[f"p >= {threshold}"] = {"shows_it": round(shows, 4), "accepted": round(fits.float().mean().item(), 4)}
        found[CLASSES[attribute][index]] = parts
    return found


def dials(models: Models) -> dict[str, Any]:
    """From 64 pictures on each side: how often a dial flips its attribute, and others with it, at five amounts."""
    found: dict[str, Any] = {}
    for attribute, off, on in (("colour", 4, 0), ("background", 6, 7), ("shape", 0, 3), ("texture", 0, 2)):
        sides = [
            normalised(
                models.diffae.encoder(held_out(64, SEED + 9 + c, **{attribute: torch.full((64,), c)}).image),
                models.mean,
                models.std,
            )
            for c in (on, off)
        ]
        line = fit_logistic(*sides)
        scenes = held_out(32, SEED + 40, **{attribute: torch.full((32,), off)})
        z_sem = models.diffae.encoder(scenes.image)
        x_T = encode(models.semantic(z_sem), scenes.image, 50)  # noqa: N806
        before = judge.classify(decode(models.semantic(z_sem), x_T, 50))
        amounts = {}
        for amount in (0.1, 0.3, 0.5, 0.7, 1.0):
            turned = moved(z_sem, line.weight, amount, models.mean, models.std)
            after = judge.classify(decode(models.semantic(turned), x_T, 50))
            others = [key for key in ATTRIBUTES if key != attribute]
            changed = sum((after[key] != before[key]).float().mean().item() for key in others) / len(others)
            hit = (after[attribute] == on).float().mean().item()
            amounts[str(amount)] = {"flipped": round(hit, 4), "others_changed": round(changed, 4)}
        accuracy = round(cross_validated("logistic", *sides), 4)
        found[f"{attribute}: {CLASSES[attribute][off]} to {CLASSES[attribute][on]}"] = {"cv": accuracy, **amounts}
    return found


def rank_correlation(values: Tensor) -> float:
    """Spearman's, of frame and value [n frames], mean of the n."""
    ranks = values.argsort(1).argsort(1).float()
    centred = ranks - ranks.mean(1, keepdim=True)
    line = torch.arange(float(values.shape[1])) - (values.shape[1] - 1) / 2
    return float(((centred * line).sum(1) / (centred.norm(dim=1) * line.norm())).mean())


def interpolation(models: Models) -> dict[str, float]:
    """Spearman's rank correlation of frame and log odds between the two ends' classes, mean of 64 pairs."""
    a, b = held_out(64, SEED + 60, shape=torch.full((64,), 0)), held_out(64, SEED + 61, shape=torch.full((64,), 3))
    places = torch.linspace(0, 1, 9)
    found: dict[str, float] = {}
    for name in ("diffae", "unet"):
        codes = [models.diffae.encoder(part.image) for part in (a, b)]
        predicts = [models.semantic(z) if name == "diffae" else models.plain() for z in codes]
        ends = [encode(predict, part.image, 50) for predict, part in zip(predicts, (a, b), strict=True)]
        x_T = torch.cat([slerp(p[None], q[None], places) for p, q in zip(*ends, strict=True)])  # noqa: N806
        z_sem = torch.cat([lerp(p[None], q[None], places) for p, q in zip(*codes, strict=True)])
        images = decode(models.semantic(z_sem) if name == "diffae" else models.plain(), x_T, 20)
        logs = judge.log_probabilities(images)["shape"]
        found[name] = round(rank_correlation((logs[:, 3] - logs[:, 0]).view(64, 9)), 4)
    return found


PARTS: dict[str, Callable[[Models], Any]] = {
    "probe": probe,
    "predicted_x0": predicted,
    "eight_noises": eight_noises,
    "dials": dials,
    "few_shot": few_shot,
    "interpolation": interpolation,
    "kid": prior,
    "reconstruction": reconstruction,
}


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    made = made_with.hashes((made_with.DIFFAE, made_with.UNET, made_with.JUDGE))
    found: dict[str, Any] = json.loads(RESULT.read_text("utf-8")) if RESULT.exists() else {}
    if found.get("made_with") != made:
        found = {"made_with": made}
    models = Models()
    for name, measure in PARTS.items():
        if name not in found:
            found[name] = measure(models)
            RESULT.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
            print(name, json.dumps(found[name]), file=sys.stderr, flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
