"""`python dev.py bench guides`: what text, content, structure and style guides do, through the host's HTTP API.

64 pictures a setting (8 goals, 8 pictures each, the same noise for every setting), 50 steps of KSampler
(euler_ancestral), the shipped noise-aware encoder on the unconditional shipped model; style also on the
class-conditional one. Judged by a network and by geometry that no guide uses. Writes `bench/results/guides.json` and a
plot; a run resumes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import torch
from PIL import Image
from torch import Tensor

from training.scenes import CLASSES, SHAPES, Scenes, draw, render

from . import judge, made_with
from .demo import to_tensor
from .host_server import PACK, Host, running
from .judge import oracles
from .shape_accuracy import Prompt, base, node

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

RESULTS = PACK / "bench" / "results"
GOALS, EACH, STEPS = 8, 8, 50
SAMPLER = "euler_ancestral"  # fresh noise lets later steps mend what earlier ones got wrong
WEIGHTS = {
    "text": (0.25, 0.5, 1.0, 2.0, 4.0),
    "content": (0.5, 1.0, 2.0, 4.0, 8.0),
    "structure": (0.25, 0.5, 1.0, 1.5, 2.0, 4.0),
    "style": (0.25, 0.5, 1.0, 1.25, 1.5, 2.0, 4.0),
}
TEXTS = {"shape": "a {}", "colour": "a {} shape", "background": "a shape on a {}", "texture": "a {} shape"}
BOTH = {"colour": 1.0, "structure": 2.0}  # weights of two guides at once
CFG = 3.0  # of the class-conditional pictures that style is put on


def references() -> Scenes:
    """Eight scenes, one a shape, of eight colours and backgrounds."""
    index = torch.arange(GOALS)
    fixed = {"shape": index, "colour": index, "background": (index + 3) % 8, "texture": index % 5}
    return render(draw(GOALS, torch.Generator().manual_seed(2024), **fixed))


def classes(attribute: str) -> list[str]:
    """The eight goals of an attribute; there are only five textures."""
    names = CLASSES[attribute]
    return [names[index % len(names)] for index in range(GOALS)]


def sampler(model: str, seed: int, cfg: float = 1.0) -> dict[str, Any]:
    return node(
        "KSampler",
        model=[model, 0],
        positive=["yes", 0],
        negative=["no", 0],
        latent_image=["latent", 0],
        seed=seed,
        steps=STEPS,
        cfg=cfg,
        sampler_name=SAMPLER,
        scheduler="normal",
        denoise=1.0,
    )


OPTIONS: dict[str, dict[str, Any]] = {
    "text": {"loss": "cosine"},
    "content": {},
    "structure": {"method": "self-similarity", "layers": ""},
    "style": {"layers": ""},
}


def guide(kind: str, weight: float, goal: dict[str, Any]) -> dict[str, Any]:
    """A guide node; `goal` holds a text or the name of a reference picture's node."""
    window = {"weight": weight, "start_percent": 0.0, "end_percent": 1.0, "curve": "constant"}
    return node(f"Guidance_{kind.title()}Guide", encoder=["encoder", 0], **window, **OPTIONS[kind], **goal)


def graph(goal: int, label: str = "", cfg: float = 1.0, **guides: dict[str, Any]) -> Prompt:
    """Eight pictures towards one goal; without guides, those of the model."""
    prompt = {
        **base(EACH),
        "yes": node("Guidance_ClassConditioning", model=["model", 0], class_label=label),
        "no": node("Guidance_ClassConditioning", model=["model", 0], class_label=""),
        "sample": sampler("apply" if guides else "model", seed=goal, cfg=cfg),
    }
    if guides:
        prompt["encoder"] = node("Guidance_LoadEncoder", encoder_name="scenes_clip.safetensors", activation="auto")
        prompt["reference"] = node("LoadImage", image=f"reference{goal}.png")
        slots = {f"guides.guide{index}": [name, 0] for index, name in enumerate(guides)}
        settings = {"strength": 1.0, "gradient": "auto", "unit": "auto", "cap": 1.0, "every": 1}
        settings |= {"inner_steps": 3, "views": 3, "recurrence": 1}
        prompt |= {**guides, "combine": node("Guidance_CombineGuides", **slots)}
        prompt["apply"] = node("Guidance_ApplyGuides", model=["model", 0], guides=["combine", 0], **settings)
    return prompt


class Pictures:
    """What a setting's graphs draw; settings whose graphs are the same share it."""

    def __init__(self, host: Host):
        self.host = host
        self.drawn: dict[str, Tensor] = {}

    def of(self, prompt: Callable[[int], Prompt]) -> Tensor:
        """[64 3 32 32], goal by goal."""
        prompts = [with_references(prompt(goal)) for goal in range(GOALS)]
        key = json.dumps(prompts)
        if key not in self.drawn:
            files = [file for part in prompts for file in self.host.images(self.host.run(part, timeout=1800)["save"])]
            self.drawn[key] = to_tensor(files)
        return self.drawn[key]


def diversity(images: Tensor) -> float:
    """Mean pairwise distance a pixel between the pictures of one goal."""
    groups = images.flatten(1).unflatten(0, (GOALS, EACH))
    return sum(torch.pdist(group).mean().item() for group in groups) / GOALS / images[0].numel() ** 0.5


def match(images: Tensor, attribute: str, wanted: Tensor) -> float:
    """Share of pictures in which the judge sees the wanted class [8] of an attribute."""
    return (judge.classify(images)[attribute] == wanted.repeat_interleave(EACH)).float().mean().item()


def wanted_classes(attribute: str) -> Tensor:
    return torch.tensor([CLASSES[attribute].index(name) for name in classes(attribute)])


def overlap(images: Tensor, scenes: Scenes) -> float:
    """Mean IoU of the shapes' masks, by geometry."""
    found, wanted = oracles.mask(images), (scenes.mask[:, 0] > 0.5).repeat_interleave(EACH, 0)
    both, either = (found & wanted).sum((1, 2)), (found | wanted).sum((1, 2))
    return (both / either.clamp(min=1)).mean().item()


def centres(masks: Tensor) -> Tensor:
    """Centre of mass [B 2] in [-1, 1]; the picture's centre where there is nothing."""
    axis = (torch.arange(masks.shape[-1]) + 0.5) * 2 / masks.shape[-1] - 1
    weight = masks.float() / masks.float().sum((1, 2), keepdim=True).clamp(min=1)
    return torch.stack([(weight.sum(1) * axis).sum(1), (weight.sum(2) * axis).sum(1)], dim=1)


@torch.no_grad()
def gram_distance(images: Tensor, scenes: Scenes) -> float:
    """Relative Gram distance in two stages of the judge, which no guide has seen."""
    network = judge.load()

    def grams(pictures: Tensor) -> list[Tensor]:
        first = network.trunk[0](network.stem(pictures.clamp(-1, 1)))
        maps = [part.flatten(2) for part in (first, network.trunk[1](first))]
        return [part @ part.transpose(1, 2) / part[0].numel() for part in maps]

    distances = []
    for found, wanted in zip(grams(images), grams(scenes.image), strict=True):
        wanted = wanted.repeat_interleave(EACH, 0)
        distances.append((found - wanted).flatten(1).norm(dim=1) / wanted.flatten(1).norm(dim=1))
    return torch.stack(distances).mean().item()


def readings(images: Tensor, kind: str, scenes: Scenes, attribute: str = "") -> dict[str, float]:
    """What the judge says of 64 pictures of a guide."""
    found = {"diversity": diversity(images)}
    labels = scenes.attributes.labels()
    if kind == "text":
        found["match"] = match(images, attribute, wanted_classes(attribute))
    if kind == "content":
        found["match"] = sum(match(images, name, labels[:, k]) for k, name in enumerate(CLASSES)) / len(CLASSES)
        apart = centres(oracles.mask(images)) - centres(scenes.mask[:, 0] > 0.5).repeat_interleave(EACH, 0)
        found["distance_of_centres"] = apart.norm(dim=1).mean().item()
    if kind == "structure":
        found |= {"iou": overlap(images, scenes), "colour": match(images, "colour", labels[:, 1])}
    if kind == "style":
        found |= {"gram": gram_distance(images, scenes), "shape": match(images, "shape", torch.arange(len(SHAPES)))}
    return {name: round(value, 4) for name, value in found.items()}


def settings(scenes: Scenes) -> dict[str, tuple[Callable[[int], Prompt], Callable[[Tensor], dict[str, float]]]]:
    """Everything that is sampled: name -> (graph of a goal, what is read from its pictures)."""
    image = {"image": ["reference", 0]}
    shapes = list(SHAPES)
    styles = references_of_other_shapes
    found: dict[str, Any] = {"unguided": (lambda goal: graph(goal), lambda images: unguided(images, scenes))}
    for attribute, pattern in TEXTS.items():
        names = classes(attribute)

        def read(images: Tensor, attribute: str = attribute) -> dict[str, float]:
            return readings(images, "text", scenes, attribute)

        found[f"label {attribute}"] = (lambda goal, names=names: graph(goal, names[goal], CFG), read)
        for weight in WEIGHTS["text"]:

            def prompt(goal: int, weight: float = weight, names: list[str] = names, pattern: str = pattern) -> Prompt:
                return graph(goal, guide=guide("text", weight, {"text": pattern.format(names[goal])}))

            found[f"text {attribute} {weight:g}"] = (prompt, read)
    for kind in ("content", "structure"):
        for weight in WEIGHTS[kind]:
            found[f"{kind} {weight:g}"] = (
                lambda goal, kind=kind, weight=weight: graph(goal, guide=guide(kind, weight, image)),
                lambda images, kind=kind: readings(images, kind, scenes),
            )
    found["style 0"] = (
        lambda goal: graph(goal, shapes[goal], CFG),
        lambda images: readings(images, "style", styles(scenes)),
    )
    for weight in WEIGHTS["style"]:
        found[f"style {weight:g}"] = (
            lambda goal, weight=weight: graph(goal, shapes[goal], CFG, guide=style_of_another(weight, goal)),
            lambda images: readings(images, "style", styles(scenes)),
        )
    colours = classes("colour")[1:] + classes("colour")[:1]  # never the reference's own

    def colour(goal: int) -> dict[str, Any]:
        return guide("text", BOTH["colour"], {"text": f"a {colours[goal]} shape"})

    def two(images: Tensor) -> dict[str, float]:
        wanted = (torch.arange(GOALS) + 1) % GOALS
        return {"colour": round(match(images, "colour", wanted), 4), "iou": round(overlap(images, scenes), 4)}

    found["both: none"] = (lambda goal: graph(goal), two)
    found["both: colour"] = (lambda goal: graph(goal, a=colour(goal)), two)
    structure = guide("structure", BOTH["structure"], image)
    found["both: structure"] = (lambda goal: graph(goal, guide=structure), two)
    found["both: two"] = (lambda goal: graph(goal, a=colour(goal), b=structure), two)
    return found


def style_of_another(weight: float, goal: int) -> dict[str, Any]:
    """The style of the picture after next, so that its shape is another one."""
    return guide("style", weight, {"image": [f"reference{(goal + 2) % GOALS}", 0]})


def references_of_other_shapes(scenes: Scenes) -> Scenes:
    order = (torch.arange(GOALS) + 2) % GOALS
    return Scenes(scenes.image[order], scenes.mask[order], scenes.attributes)


def unguided(images: Tensor, scenes: Scenes) -> dict[str, float]:
    found = {f"text {name}": match(images, name, wanted_classes(name)) for name in TEXTS}
    content = readings(images, "content", scenes)
    structure = readings(images, "structure", scenes)
    found |= {"content": content["match"], "distance_of_centres": content["distance_of_centres"]}
    found |= {"structure": structure["iou"], "colour": structure["colour"], "diversity": content["diversity"]}
    return {name: round(value, 4) for name, value in found.items()}


def plot(result: dict[str, Any], path: Path) -> None:
    """A panel a guide: its effect over the weight, diversity beside it."""
    measures = {"content": "match", "structure": "iou", "style": "gram"}
    panels = [(f"text {name}", "match") for name in TEXTS] + list(measures.items())
    figure, axes = pyplot.subplots(2, 4, figsize=(15, 6.4))
    for axis, (name, measure) in zip(axes.flat, panels, strict=False):
        kind = name.split()[0]
        rows = [(weight, result["settings"].get(f"{name} {weight:g}")) for weight in WEIGHTS[kind]]
        rows = [(weight, row) for weight, row in rows if row]
        start = result["settings"]["style 0"]["gram"] if kind == "style" else result["settings"]["unguided"][name]
        axis.plot([weight for weight, _ in rows], [row[measure] for _, row in rows], marker="o", label=measure)
        axis.axhline(start, color="grey", linestyle=":", label="unguided")
        spread = [row["diversity"] for _, row in rows]
        axis.plot([weight for weight, _ in rows], spread, marker="s", color="tab:orange", label="diversity")
        axis.set_xscale("log", base=2)
        axis.set_title(name)
        axis.set_xlabel("weight")
        axis.grid(alpha=0.3)
    axes.flat[0].legend(fontsize=8)
    axes.flat[-1].axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def save_references(host: Host, scenes: Scenes) -> None:
    folder = host.base / "input"
    folder.mkdir(exist_ok=True)
    pixels = ((scenes.image + 1) * 127.5).round().byte().movedim(1, -1).numpy()
    for index, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"reference{index}.png")


def with_references(prompt: Prompt) -> Prompt:
    """Reference nodes of other goals, where a guide names them."""
    named = [value[0] for part in prompt.values() for value in part["inputs"].values() if isinstance(value, list)]
    others = [name for name in named if isinstance(name, str) and name.startswith("reference") and name not in prompt]
    return prompt | {name: node("LoadImage", image=f"{name}.png") for name in others}


def main() -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench guides")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--only", nargs="+", default=[""], help="settings whose names begin so")
    given = parser.parse_args()
    path = given.out / "guides.json"
    conditions = {
        "n": GOALS * EACH,
        "steps": STEPS,
        "sampler": SAMPLER,
        "made_with": made_with.hashes((made_with.UNET, made_with.CLIP, made_with.JUDGE)),
    }
    result: dict[str, Any] = {**conditions, "settings": {}}
    if path.exists():
        earlier = json.loads(path.read_text("utf-8"))
        if all(earlier.get(key) == value for key, value in conditions.items()):
            result = earlier
    scenes = references()
    flags = [] if torch.cuda.is_available() else ["--cpu", "--force-channels-last"]
    with running(Path(os.environ["COMFYUI_PATH"]), flags=flags) as host:
        save_references(host, scenes)
        pictures = Pictures(host)
        for name, (prompt, read) in settings(scenes).items():
            if name in result["settings"] or not name.startswith(tuple(given.only)):
                continue
            result["settings"][name] = read(pictures.of(prompt))
            path.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
            print(f"[bench] {name}: {result['settings'][name]}", file=sys.stderr, flush=True)
    if "unguided" in result["settings"] and "style 0" in result["settings"]:
        plot(result, path.with_suffix(".png"))
        made_with.record(path.with_suffix(".png"), result["made_with"])
    print(json.dumps(result))


if __name__ == "__main__":
    main()
