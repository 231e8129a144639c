"""One training loop for every small model: AdamW, warm-up, a long decay, EMA, and files that resume.

A run writes two files: `NAME.safetensors`, the EMA in fp16 with its record as metadata (what the pack ships), and
`NAME.resume.safetensors` with weights, EMA and optimiser state. Either can be named by `--resume`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .scenes import Scenes, draw, render

Batches = Callable[[int, torch.Generator], Iterator[Any]]  # endless; batches of so many pictures
Loss = Callable[[nn.Module, Any, torch.Generator], tuple[Tensor, dict[str, Tensor]]]  # scalar, and what to report


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

    @property
    def steps(self) -> int:
        return self.images // self.batch

    def rate(self, step: int, done: float) -> float:
        """`done` is the finished share of the run, in [0, 1]."""
        return self.learning_rate * min((step + 1) / self.warmup, (1 - done) / (1 - self.flat), 1.0)


def scene_batches(batch: int, generator: torch.Generator, at_once: int = 16) -> Iterator[Scenes]:
    """Endless fresh scenes; `at_once` batches are rendered together, which keeps a GPU's queue filled."""
    while True:
        scenes = render(draw(batch * at_once, generator))
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
    parser.add_argument("--commit", default=_commit(), help="for the record, where the scripts lie outside a clone")
    parser.add_argument("--minutes", type=float, default=math.inf, help="length of the run, resumed parts included")
    parser.add_argument("--count", type=int, default=recipe.images, help="length of the run in pictures seen")
    for field in ("batch", "seed"):
        parser.add_argument(f"--{field}", type=int, default=getattr(recipe, field))
    parser.add_argument("--learning-rate", type=float, default=recipe.learning_rate)
    parser.add_argument("--ema", type=float, default=recipe.ema)
    more(parser)
    given = parser.parse_args()
    changed = {key: getattr(given, key) for key in ("batch", "seed", "learning_rate", "ema")}
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
        self.ema = {key: _wide(value.detach().clone()) for key, value in self.network.state_dict().items()}
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=1.0, betas=(0.9, 0.99), weight_decay=self.recipe.weight_decay
        )

    def resume(self, path: Path) -> None:
        """Continues a .resume file exactly where it stopped, or starts anew from the weights of a shipped file."""
        with safe_open(path, "pt") as file:
            tensors, record = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()
        if "progress" not in record:
            self.earlier_images = int(json.loads(record["training"])["images"])
            own = self.network.state_dict()  # a file may hold more beside the network
            self.ema = {key: _wide(value.to(self.device)) for key, value in tensors.items() if key in own}
            self.network.load_state_dict(self.ema)
            return
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "ema": {}, "optimizer": {}}
        for key, value in tensors.items():
            part, name = key.split("/", 1)
            parts[part][name] = value.to(self.device)
        self.network.load_state_dict(parts["network"])
        self.ema = parts["ema"]
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in parts["optimizer"].items():
            index, slot = name.split("/")
            state.setdefault(int(index), {})[slot] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        progress = json.loads(record["progress"])
        self.step, self.seconds = progress["step"], progress["seconds"]
        self.earlier_images = progress["earlier_images"]

    def update_ema(self) -> None:
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        mine = self.network.state_dict()
        floating = [key for key, value in self.ema.items() if value.is_floating_point()]
        for key in floating:
            self.ema[key].lerp_(mine[key].float(), 1 - decay)

    def save(self, path: Path, report: dict[str, float]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
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
        half = {key: value.contiguous().cpu() for key, value in half.items()}
        replace_file(half, path, {**self.metadata, "training": json.dumps(record)})
        tensors = {f"network/{key}": value for key, value in self.network.state_dict().items()}
        tensors |= {f"ema/{key}": value for key, value in self.ema.items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{slot}": value for slot, value in slots.items()}
        progress = {"step": self.step, "seconds": self.seconds, "earlier_images": self.earlier_images}
        tensors = {key: value.detach().clone().contiguous().cpu() for key, value in tensors.items()}
        replace_file(tensors, path.with_suffix(".resume.safetensors"), {"progress": json.dumps(progress)})


def replace_file(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Written beside and renamed: a process killed here leaves the old file whole."""
    part = path.with_suffix(".part")
    save_file(tensors, part, metadata)
    part.replace(path)


def _wide(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def mean_over_processes(parameters: list[nn.Parameter], seconds: float) -> float:
    """Averages the gradients, and the clock, over the processes of a torchrun; a single process keeps its own.

    One-thread processes that share a batch are much faster on a CPU than one process with as many threads.
    """
    if not dist.is_initialized():
        return seconds
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([*(grad.flatten() for grad in grads), torch.tensor([seconds])])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for grad, mean in zip(grads, flat[:-1].split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(mean.view_as(grad))
    return flat[-1].item()


def is_first_process() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def train(
    run: Run,
    loss: Loss,
    given: argparse.Namespace,
    batches_of: Batches = scene_batches,
    show: Callable[[Run], None] | None = None,
) -> None:
    """Runs the recipe to its end in images or minutes, whichever comes first; reports and saves every 30 seconds.

    `show` is called ten minutes after it was last, and at the end.
    `torchrun --nproc-per-node N -m training.NAME` shares each batch among N processes.
    """
    recipe = run.recipe
    run.commit = given.commit
    if given.resume:
        run.resume(given.resume)
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
    rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    run.network.train()
    network = cast(nn.Module, torch.compile(run.network)) if given.compile else run.network
    # neither a resumed run nor two processes must see the same pictures
    seed = recipe.seed + 7919 * (run.step + run.earlier_images) + 104_729 * rank
    generator = torch.Generator(run.device).manual_seed(seed)
    batches = batches_of(recipe.batch // size, generator)
    started, shown, before, saved = time.monotonic(), time.monotonic(), run.seconds, (time.monotonic(), run.step)
    means: dict[str, Tensor] = {}
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    while (done := max(run.step / recipe.steps, run.seconds / (60 * given.minutes))) < 1:
        for group in run.optimizer.param_groups:
            group["lr"] = recipe.rate(run.step, done)
        with torch.autocast(run.device, torch.bfloat16, enabled=run.device == "cuda"):
            value, parts = loss(network, next(batches), generator)
        run.optimizer.zero_grad(set_to_none=True)
        value.backward()
        seconds = before + time.monotonic() - started
        run.seconds = mean_over_processes(list(run.network.parameters()), seconds)
        torch.nn.utils.clip_grad_norm_(run.network.parameters(), 1.0)
        run.optimizer.step()
        run.step += 1
        run.update_ema()
        for key, part in parts.items():
            part = part.detach().float()
            means[key] = means[key].lerp(part, 0.01) if key in means else part
        finished = run.step == recipe.steps or run.seconds >= 60 * given.minutes
        if rank == 0 and (finished or time.monotonic() - saved[0] > 30):
            speed = (run.step - saved[1]) * recipe.batch / (time.monotonic() - saved[0])
            saved = (time.monotonic(), run.step)
            report = {key: round(part.item(), 5) for key, part in means.items()}
            run.save(given.out, report)
            print(f"{run.step} steps, {done:.1%}, {speed:.0f} images/s", json.dumps(report), flush=True)
            if show is not None and (finished or time.monotonic() - shown > 600):
                show(run)
                shown = time.monotonic()
