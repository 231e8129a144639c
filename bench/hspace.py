"""`python dev.py bench hspace`: the four properties of h-space (Asyrp, section 5), on the pack's U-Net made for it.

In pure torch, DDIM of 20 steps, 128 samples without a class, edits in the first half of the run. A direction is a mean
difference of h between a class and no class at the same pictures, in 8 ranges of the run (what Discover HSpace finds),
from other noises.
Judged by `bench/judge`. Writes `bench/results/hspace.json` part by part, and `hspace.png`: every fourth strength of the
dials on the same noises.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guidance.hspace import BUCKETS
from guidance.sampling import respaced
from models.registry import DEMO, load_checkpoint
from training.codes import SCHEDULE
from training.scenes import CLASS_NAMES, CLASSES

from . import judge, made_with
from .host_server import PACK

RESULT = PACK / "bench" / "results" / "hspace.json"
SAMPLES, LEARNED_ON, STEPS, SEED = 128, 64, 20, 770_013
STRENGTHS = (-2.0, -1.0, 0.0, 1.0, 2.0)
UNIT = 2.0  # what strength 1 is, as a strength of Discover HSpace's contrast
DIALS = {"red": ("colour", 0), "star": ("shape", 3), "black background": ("background", 7)}
END = 0.5  # of the timesteps: t_edit = 500


def model_named(name: str) -> tuple[Any, int]:
    checkpoint = load_checkpoint(DEMO / "models" / name, "model")
    network: Any = checkpoint.build()
    network.load_state_dict({key: value.float() for key, value in checkpoint.state.items()})
    network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # a fifth faster on a CPU
    return network, checkpoint.facts.no_class or 0


@dataclass
class Model:
    network: Any
    no_class: int

    def run(self, noise: Tensor, label: int, delta: Tensor | None = None, symmetric: bool = False, look: Any = None):
        """Pictures. delta [8 C h w] is added to h in the first half; `look` is called with (x, timesteps, h)."""
        return torch.cat([self._run(part, label, delta, symmetric, look) for part in noise.split(32)])

    def _run(self, x: Tensor, label: int, delta: Tensor | None, symmetric: bool, look: Any) -> Tensor:
        times = sorted(respaced(f"ddim{STEPS}"), reverse=True)
        signals = [float(SCHEDULE.alphas_cumprod[t]) for t in times] + [1.0]
        y = torch.full((len(x),), label)
        for t, ab, following in zip(times, signals, signals[1:], strict=False):
            now = torch.full((len(x),), t)
            h, skips, emb = self.network.down_half(x, now, y)
            if look is not None:
                look(x, now, h)
            plain = self._denoised(x, self.network.up_half(h, skips, emb), ab)
            edited = plain
            if delta is not None and t >= 1000 * END:
                edited = self._denoised(x, self.network.up_half(h + delta[bucket(t)], skips, emb), ab)
            kept = edited if symmetric else plain
            eps = (x - ab**0.5 * kept) / (1 - ab) ** 0.5
            x = following**0.5 * edited + (1 - following) ** 0.5 * eps
        return x

    def _denoised(self, x: Tensor, out: Tensor, ab: float) -> Tensor:
        return ((x - (1 - ab) ** 0.5 * out[:, :3]) / ab**0.5).clamp(-1, 1)

    def direction(self, name: str) -> Tensor:
        """[8 C h w]: UNIT times the mean difference of h between a class and no class, at pictures of no class."""
        label, sums = CLASS_NAMES.index(name), [torch.zeros(1)] * BUCKETS
        counts = [0] * BUCKETS

        def look(x: Tensor, t: Tensor, h: Tensor) -> None:
            named, *_ = self.network.down_half(x, t, torch.full((len(x),), label))
            k = bucket(int(t[0]))
            sums[k] = sums[k] + (named - h).sum(0)
            counts[k] += len(h)

        self.run(noises(LEARNED_ON, 1), self.no_class, look=look)
        return UNIT * torch.stack([total / count for total, count in zip(sums, counts, strict=True)])


def bucket(t: int) -> int:
    return min(BUCKETS - 1, int((1 - t / 1000) * BUCKETS))


def noises(count: int, seed: int) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(SEED + seed))


class Readings:
    """What the judge says of pictures, against the same noises without an edit.

    `model` draws: run(noise, model.no_class, delta, symmetric) -> pictures [B 3 32 32].
    """

    def __init__(self, model: Any, noise: Tensor):
        self.model = model
        self.noise = noise
        self.plain = model.run(self.noise, model.no_class)
        self.before, self.names = judge.log_probabilities(self.plain), judge.classify(self.plain)
        self.drawn: dict[tuple[bytes, bool], Tensor] = {}

    def images(self, delta: Tensor, symmetric: bool) -> Tensor:
        """Drawn once, whatever is read from them."""
        key = hashlib.sha256(delta.contiguous().numpy().tobytes()).digest(), symmetric
        if key not in self.drawn:
            self.drawn[key] = self.model.run(self.noise, self.model.no_class, delta, symmetric)
        return self.drawn[key]

    def of(self, dial: str, delta: Tensor, symmetric: bool = False) -> dict[str, float]:
        """Over samples that don't show the class yet: share whose odds of it rise, mean rise, share that shows it;
        and over all samples the share of labels that changed."""
        attribute, index = DIALS[dial]
        images = self.images(delta, symmetric)
        after, names = judge.log_probabilities(images), judge.classify(images)
        lacking = self.names[attribute] != index
        rise = (odds(after[attribute][:, index]) - odds(self.before[attribute][:, index]))[lacking]
        changed = {key: (names[key] != self.names[key]).float().mean().item() for key in CLASSES}
        found = {
            "rises_in": (rise > 0).float().mean().item(),
            "mean_rise": rise.mean().item(),
            "shows_it": (names[attribute][lacking] == index).float().mean().item(),
            **{f"{key} changed": value for key, value in changed.items()},
        }
        return {key: round(value, 4) for key, value in found.items()}


def odds(log_p: Tensor) -> Tensor:
    """log p - log(1 - p)."""
    log_p = log_p.double().clamp(max=-1e-9)
    return log_p - torch.log1p(-log_p.exp())


def homogeneity_and_linearity(r: Readings, deltas: dict[str, Tensor]) -> dict[str, Any]:
    return {dial: {str(s): r.of(dial, s * delta) for s in STRENGTHS if s} for dial, delta in deltas.items()}


def addition(r: Readings, deltas: dict[str, Tensor]) -> dict[str, Any]:
    """Two directions at once, and each alone: mean rise of the odds."""
    found = {}
    for a, b in (("red", "black background"), ("star", "black background")):
        both = deltas[a] + deltas[b]
        found[f"{a} + {b}"] = {
            dial: {"alone": r.of(dial, deltas[dial])["mean_rise"], "together": r.of(dial, both)["mean_rise"]}
            for dial in (a, b)
        }
    return found


def robustness(r: Readings, deltas: dict[str, Tensor]) -> dict[str, Any]:
    """Random delta_h of the same norm in each range, three of them for each dial."""
    found = {}
    for dial, delta in deltas.items():
        parts = []
        for k in range(3):
            drawn = torch.randn(delta.shape, generator=torch.Generator().manual_seed(k))
            size = delta.flatten(1).norm(dim=1) / drawn.flatten(1).norm(dim=1)
            parts.append(r.of(dial, drawn * size[:, None, None, None]))
        found[dial] = {key: round(sum(part[key] for part in parts) / len(parts), 4) for key in parts[0]}
    return found


def consistency(r: Readings, deltas: dict[str, Tensor]) -> dict[str, Any]:
    """Each range's direction moved to the next range, and one range's direction in all of them."""
    found = {}
    for dial, delta in deltas.items():
        shifted = torch.cat([delta[:1], delta[:-1]])
        versions = {
            "own": delta,
            "the neighbour's": shifted,
            "the second range's everywhere": delta[1:2].expand_as(delta),
        }
        found[dial] = {name: r.of(dial, version) for name, version in versions.items()}
    return found


def symmetry(r: Readings, deltas: dict[str, Tensor]) -> dict[str, Any]:
    """The same edits, also in the direction of the noise (theorem 1: they cancel)."""
    return {
        dial: {name: r.of(dial, delta, symmetric=kind) for name, kind in (("asymmetric", False), ("symmetric", True))}
        for dial, delta in deltas.items()
    }


PARTS: dict[str, Callable[[Readings, dict[str, Tensor]], Any]] = {
    "homogeneity and linearity": homogeneity_and_linearity,
    "addition": addition,
    "robustness": robustness,
    "consistency": consistency,
    "symmetry": symmetry,
}


def sheet(r: Readings, deltas: dict[str, Tensor], picture: Path) -> None:
    """A picture: for each dial a row a strength, sixteen noises."""
    from training.autoencoder_sheet import write

    noise = r.noise[:16]
    rows = [r.model.run(noise, r.model.no_class, s * delta) for delta in deltas.values() for s in STRENGTHS]
    write(torch.stack(rows), picture)


@torch.no_grad()
def main(arguments: Sequence[str]) -> None:
    torch.set_num_threads(1)
    name = arguments[0] if arguments else "scenes_hspace.safetensors"
    made = made_with.hashes((DEMO / "models" / name, made_with.JUDGE))
    found: dict[str, Any] = json.loads(RESULT.read_text("utf-8")) if RESULT.exists() else {}
    if found.get("made_with") != made:
        found = {"unet": name, "made_with": made}
    model = Model(*model_named(name))
    deltas = {dial: model.direction(dial) for dial in DIALS}
    readings = Readings(model, noises(SAMPLES, 0))
    picture = RESULT.with_suffix(".png")
    sheet(readings, deltas, picture)
    made_with.record(picture, made)
    for part, measure in PARTS.items():
        if part not in found:
            found[part] = measure(readings, deltas)
            RESULT.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
            print(part, json.dumps(found[part]), file=sys.stderr, flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
