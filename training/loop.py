"""One training loop for every small model: AdamW, warm-up, a long decay, EMA, and files that resume.

A run writes two files: `NAME.safetensors`, the EMA in fp16 with its record as metadata (what the pack ships), and
`NAME.resume.safetensors` with weights, EMA and optimiser state. Either can be named by `--resume`.

On a GPU a step is one CUDA graph, in bf16 for the first two thirds of the run and in TF32 for the last. On a CPU it is
float32 throughout.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from models.facts import of_json
from models.memory import check_memory
from models.saving import replace_file
from models.state_dict import CheckpointError, read
from models.training_files import joined, load_optimizer, load_weights, optimizer_tensors, parted

from . import average, processes
from .graph import captures
from .scenes import Scenes, draw, render
from .step import Losses, Step, adamw

Batches = Callable[[int, torch.Generator], Iterator[Any]]  # endless; batches of so many pictures
Loss = Callable[[nn.Module, Any, torch.Generator], Losses]


@dataclass(frozen=True)
class Recipe:
    """How long and how fast. The learning rate is flat until `flat` of the run, then falls linearly to 0.

    A run given `--minutes` measures its length in time instead of images, so it ends with the rate at 0 on any machine.
    """

    images: int
    batch: int
    learning_rate: float = 1.2e-3
    warmup: int = 200  # steps
    flat: float = 0.5
    ema: float = 0.999
    weight_decay: float = 0.0
    seed: int = 0
    bf16: float = 2 / 3  # share of the run that a GPU computes in bf16; the rest in TF32

    @property
    def steps(self) -> int:
        return self.images // self.batch

    def rate(self, step: int, done: float) -> float:
        """`done` is the finished share of the run, in [0, 1]."""
        return self.learning_rate * min((step + 1) / self.warmup, (1 - done) / (1 - self.flat), 1.0)


def scene_batches(batch: int, generator: torch.Generator, at_once: int = 16, resolution: int = 32) -> Iterator[Scenes]:
    """Endless fresh scenes; `at_once` batches are rendered together, which keeps a GPU's queue filled."""
    while True:
        scenes = render(draw(batch * at_once, generator), resolution)
        for start in range(0, batch * at_once, batch):
            rows = slice(start, start + batch)
            attributes = type(scenes.attributes)(**{k: v[rows] for k, v in vars(scenes.attributes).items()})
            yield Scenes(scenes.image[rows], scenes.mask[rows], attributes)


def zero_outputs(network: nn.Module) -> None:
    """ADM's initialisation: each residual branch and the output start at 0."""
    for name, module in network.named_modules():
        if name.endswith(("out_layers.3", "proj_out")) or name == "out.2":
            for parameter in module.parameters():
                nn.init.zeros_(parameter)


def arguments(
    out: str, recipe: Recipe, more: Callable[[argparse.ArgumentParser], object] = lambda parser: None
) -> tuple[Recipe, argparse.Namespace]:
    """Command line of a training script: the recipe may be changed, a file to resume from named; `more` adds to it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--resume", type=Path, help="a shipped file or a .resume file of an earlier run")
    parser.add_argument("--first-stage", type=Path, help="what an earlier stage wrote, for scripts that have one")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile, worth it on a GPU")
    parser.add_argument("--commit", default=commit(), help="for the record, where the scripts lie outside a clone")
    parser.add_argument("--minutes", type=float, default=math.inf, help="length of the run, resumed parts included")
    parser.add_argument("--count", type=int, default=recipe.images, help="length of the run in pictures seen")
    for field in ("batch", "seed"):
        parser.add_argument(f"--{field}", type=int, default=getattr(recipe, field))
    parser.add_argument("--learning-rate", type=float, default=recipe.learning_rate)
    parser.add_argument("--flat", type=float, default=recipe.flat, help="share of the run before the rate falls to 0")
    parser.add_argument("--ema", type=float, default=recipe.ema)
    more(parser)
    given = parser.parse_args()
    if not 1 <= given.batch <= given.count:
        parser.error(
            f"--count {given.count} and --batch {given.batch}: give a batch of 1 or more, and no smaller count"
        )
    if not given.minutes > 0:
        parser.error(f"--minutes {given.minutes}: give a length above 0")
    if not 0 <= given.flat < 1:
        parser.error(f"--flat {given.flat}: give a share of the run below 1, so that the learning rate can fall to 0")
    changed = {key: getattr(given, key) for key in ("batch", "seed", "learning_rate", "flat", "ema")}
    return replace(recipe, images=given.count, **changed), given


@dataclass
class Run:
    """State of one training run: network, its EMA, optimiser, and how far it came."""

    network: nn.Module
    recipe: Recipe
    device: str
    metadata: dict[str, str]  # configuration, written into the shipped file
    commit: str = "unknown"
    step: int = 0
    seconds: float = 0.0
    earlier_images: int = 0  # of the run whose shipped file was resumed

    def __post_init__(self) -> None:
        self.network.to(self.device)
        self.ema = average.start(self.network)
        self.optimizer = adamw(self.network, self.device, betas=(0.9, 0.99), weight_decay=self.recipe.weight_decay)

    def resume(self, path: Path) -> None:
        """Continues a .resume file exactly where it stopped, or starts anew from the weights of a shipped file.

        Raises CheckpointError for every other file.
        """
        tensors, record = read(path, of_any_use=True)  # also one that the host loads
        tensors = {key: value.to(self.device) for key, value in tensors.items()}
        try:
            if "progress" in record:
                self._go_on(parted(tensors), of_json(record, "progress", dict))
            else:
                self._start_from(tensors, of_json(record, "training", dict))
        except KeyError as error:
            raise CheckpointError(f"{path.name} is no file of a training run: it has no {error}") from error
        except (RuntimeError, ValueError, TypeError, OverflowError) as error:
            check_memory(error)
            raise CheckpointError(f"{path.name} doesn't fit this training run: {error}") from error

    def _start_from(self, tensors: dict[str, Tensor], training: dict[str, Any]) -> None:
        own = self.network.state_dict()  # a file may hold more beside the network
        self.ema = {key: average.wide(value) for key, value in tensors.items() if key in own}
        load_weights(self.network, self.ema)
        self.earlier_images = whole(training["images"])

    def _go_on(self, parts: dict[str, dict[str, Tensor]], progress: dict[str, Any]) -> None:
        for part in ("ema", "network"):  # the average has the network's shapes
            load_weights(self.network, parts[part])
        self.ema = parts["ema"]
        load_optimizer(self.optimizer, parts["optimizer"])
        self.step, self.earlier_images = whole(progress["step"]), whole(progress["earlier_images"])
        self.seconds = float(progress["seconds"])
        if not 0 <= self.seconds < math.inf:
            raise ValueError(f"it took {self.seconds} seconds")

    def save(self, path: Path, report: dict[str, float]) -> None:
        images = self.earlier_images + self.step * self.recipe.batch
        record = {
            "images": images,
            "minutes": round(self.seconds / 60, 1),
            "device": torch.cuda.get_device_name() if self.device == "cuda" else "cpu",
            "recipe": vars(self.recipe),
            "losses": report,
            "commit": self.commit,
            "licence": "MIT, trained on the pack's own rendered scenes",
        }
        half = {key: value.half() if value.is_floating_point() else value for key, value in self.ema.items()}
        replace_file(half, path, {**self.metadata, "training": json.dumps(record)})
        progress = {"step": self.step, "seconds": self.seconds, "earlier_images": self.earlier_images}
        state = {"network": self.network.state_dict(), "ema": self.ema, "optimizer": optimizer_tensors(self.optimizer)}
        replace_file(joined(state), path.with_suffix(".resume.safetensors"), {"progress": json.dumps(progress)})


def whole(number: Any) -> int:
    """A count out of a file. Raises ValueError."""
    if type(number) is not int or not 0 <= number < 1 << 62:
        raise ValueError(f"{number!r} is no count")
    return number


def commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


class Reports:
    """Prints and saves every 30 seconds and at the end; calls `show` ten minutes after it last did, and at the end."""

    def __init__(self, run: Run, out: Path, show: Callable[[Run], None] | None):
        self.run, self.out, self.show = run, out, show
        self.saved = self.shown = time.monotonic()
        self.saved_step = run.step

    def __call__(self, means: dict[str, Tensor], done: float, finished: bool) -> None:
        now, run = time.monotonic(), self.run
        if not finished and now - self.saved <= 30:
            return
        report = {key: round(part.item(), 5) for key, part in means.items()}
        speed = (run.step - self.saved_step) * run.recipe.batch / (time.monotonic() - self.saved)
        self.saved, self.saved_step = time.monotonic(), run.step
        run.save(self.out, report)
        print(f"{run.step} steps, {done:.1%}, {speed:.0f} images/s", json.dumps(report), flush=True)
        if self.show is not None and (finished or now - self.shown > 600):
            self.show(run)
            self.shown = time.monotonic()


def train(
    run: Run,
    loss: Loss,
    given: argparse.Namespace,
    batches_of: Batches = scene_batches,
    show: Callable[[Run], None] | None = None,
) -> None:
    """Runs the recipe to its end in images or minutes, whichever comes first.

    `torchrun --nproc-per-node N -m training.NAME` shares each batch among N processes of a CPU.
    """
    recipe = run.recipe
    run.commit = given.commit
    if given.resume:
        try:
            run.resume(given.resume)
        except CheckpointError as error:
            sys.exit(f"--resume: {error}")
    rank, size = processes.join(run.device)
    run.network.train()
    network = cast(nn.Module, torch.compile(run.network)) if given.compile else run.network
    # neither a resumed run nor two processes must see the same pictures
    seed = recipe.seed + 7919 * (run.step + run.earlier_images) + 104_729 * rank
    generator = torch.Generator(run.device).manual_seed(seed)
    batches = batches_of(recipe.batch // size, generator)
    step = Step(run.network, run.optimizer, run.ema, lambda batch: loss(network, batch, generator), generator, 1.0)
    reports = Reports(run, given.out, show)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    started, before = time.monotonic(), run.seconds
    while (done := max(run.step / recipe.steps, run.seconds / (60 * given.minutes))) < 1:
        share = average.share_of(run.step + 1, recipe.ema)
        step(next(batches), recipe.rate(run.step, done), share, captures(run.device) and done < recipe.bf16)
        run.step += 1
        run.seconds = processes.average_clock(before + time.monotonic() - started)
        if rank == 0:
            finished = run.step == recipe.steps or run.seconds >= 60 * given.minutes
            reports(step.report, done, finished)
