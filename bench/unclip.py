"""`python dev.py bench unclip`: the small unCLIP, text -> prior -> decoder, and what its embeddings are good for.

scenes_prior makes scenes_clip's embedding of a picture out of a caption, scenes_unclip draws it; 25 steps each, the
decoder without a text unless one is named. Judged by a network that no guide and no training has
seen: captions at several scales of the decoder's classifier-free guidance, 256 captions at the best of them, eight
decodings of one embedding, interpolation, and text differences. Writes `bench/results/unclip.json` part by part, so a
run resumes, and a plot.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import matplotlib
import torch
from torch import Tensor

from training.captions import phrase
from training.scenes import CLASSES

from . import judge, made_with
from .diffae import held_out, noise, rank_correlation, right
from .host_server import PACK
from .pack import Pack, ksampler
from .text_model import captioned, matches

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

RESULTS = PACK / "bench" / "results"
STEPS, SHORT = 25, 15  # of euler_ancestral; of DDIM, where pictures are compared from the same noise
SCALES = (1.0, 2.0, 3.0, 5.0)  # of the decoder
SCALE, PRIOR_SCALE = 3.0, 4.0  # of all other parts, and of the prior
FEW, MANY = 64, 256  # captions
PAIRS, SCENES = 12, 16  # of an interpolation or a text difference; of those drawn eight times
FRACTIONS = (0.2, 0.35, 0.5, 0.7)  # of a text difference
FRAMES = 7
RED, WHITE = 0, 6
TURNS = {"shape": (0, 3), "colour": (RED, 4), "background": (7, WHITE), "texture": (0, 1)}  # from a class to another
MADE_WITH = (made_with.UNCLIP, made_with.PRIOR, made_with.CLIP, made_with.JUDGE)


def output(embeds: Tensor) -> Any:
    """As a CLIP_VISION_OUTPUT, of which the nodes read this alone."""
    return SimpleNamespace(image_embeds=embeds)


class Bench(Pack):
    def __init__(self) -> None:
        super().__init__()
        self.model = self.node("Guidance_LoadModel", model_name="scenes_unclip.safetensors")[0]
        self.prior = self.node("Guidance_LoadPrior", prior_name="scenes_prior.safetensors")[0]
        self.clip = self.node("Guidance_LoadEncoder", encoder_name="scenes_clip.safetensors")[0]

    def imagined(self, caption: str, seed: int) -> Tensor:
        """The prior's embedding [1 D] of a caption."""
        given = {"prior": self.prior, "clip": self.clip, "text": caption, "guidance_scale": PRIOR_SCALE}
        return self.node("Guidance_UnclipPrior", **given, seed=seed)[0].image_embeds

    def seen(self, images: Tensor) -> Any:
        """CLIP_VISION_OUTPUT of pictures [B 3 32 32] in [-1, 1]."""
        return self.node("Guidance_ImageEmbeds", encoder=self.clip, images=images.movedim(1, -1).add(1).div(2))[0]

    def text(self, captions: list[str]) -> Any:
        """CONDITIONING of the decoder, a row a caption."""
        told = [
            self.node("Guidance_TextConditioning", model=self.model, text=text, clip=self.clip)[0][0]
            for text in captions
        ]
        pooled = torch.cat([extra["pooled_output"] for _, extra in told])
        return [[torch.cat([states for states, _ in told]), {**told[0][1], "pooled_output": pooled}]]

    def drawn(
        self,
        embeds: Tensor,
        start: Tensor,
        scale: float = SCALE,
        captions: list[str] | None = None,
        ddim: bool = False,
    ) -> Tensor:
        """Pictures of embeddings [B D], from noise [B 3 32 32]."""
        negative = self.text([""])
        given = {"model": self.model, "conditioning": negative if captions is None else self.text(captions)}
        (positive,) = self.node("Guidance_ImageEmbedConditioning", **given, clip_vision_output=output(embeds))
        steps = (SHORT, "ddim") if ddim else (STEPS, "euler_ancestral")
        return ksampler(self.model, scale, positive, negative, start, *steps)

    def blended(self, embed: Tensor, goal: Tensor | None = None, **given: Any) -> Tensor:
        """Rows between an embedding [D] and another, or along two texts."""
        given |= {"embed_a": output(embed[None])} | ({} if goal is None else {"embed_b": output(goal[None])})
        return self.node("Guidance_BlendImageEmbeds", **given)[0].image_embeds


def scales(bench: Bench) -> dict[str, Any]:
    """The decoder's guidance on the prior's embeddings, with the caption beside them and without."""
    attributes, captions = captioned(FEW // 2, 51)
    embeds = torch.cat([bench.imagined(caption, seed) for seed, caption in enumerate(captions)])
    return {
        name: {
            str(scale): matches(bench.drawn(embeds, noise(FEW // 2, 52), scale, told), attributes.labels())
            for scale in SCALES
        }
        for name, told in (("embedding alone", None), ("embedding and caption", captions))
    }


def captions(bench: Bench) -> dict[str, Any]:
    """Text -> prior -> decoder, MANY captions; of the first FEW also with the caption told to the decoder, and from the
    embeddings of rendered scenes, which a perfect prior would give."""
    attributes, lines = captioned(MANY, 53)
    labels, start = attributes.labels(), noise(MANY, 54)
    embeds = torch.cat([bench.imagined(caption, seed) for seed, caption in enumerate(lines)])
    few, told = slice(FEW), lines[:FEW]
    same = {name: labels[few, k] for k, name in enumerate(CLASSES)}
    true = bench.seen(held_out(FEW, 55, **same).image).image_embeds
    return {
        "prior": matches(bench.drawn(embeds, start), labels),
        "prior, decoder told the caption": matches(bench.drawn(embeds[few], start[few], captions=told), labels[few]),
        "embedding of a scene": matches(bench.drawn(true, start[few]), labels[few]),
    }


def centres(images: Tensor) -> Tensor:
    """Middle [B 2] of what differs from the corners' colour, in pixels."""
    corners = torch.stack([images[:, :, y, x] for y in (0, -1) for x in (0, -1)]).median(0).values
    weight = (images - corners[..., None, None]).abs().sum(1).clamp(min=0.3) - 0.3
    place = torch.arange(32.0)
    total = weight.sum((1, 2)).clamp(min=1e-6)
    return torch.stack([(weight.sum(axis) * place).sum(1) / total for axis in (1, 2)], dim=1)


def apart(images: Tensor) -> float:
    """Mean distance between the shapes' middles within groups of eight pictures, in pixels."""
    return round(
        torch.stack([torch.pdist(group).mean() for group in centres(images).unflatten(0, (-1, 8))]).mean().item(), 2
    )


def eight_decodings(bench: Bench) -> dict[str, Any]:
    """Scenes drawn from eight noises each: the scene's labels kept, and how far the shapes are from each other."""
    scenes = held_out(SCENES, 56)
    embeds = bench.seen(scenes.image).image_embeds.repeat_interleave(8, 0)
    images = bench.drawn(embeds, noise(8 * SCENES, 57))
    labels = scenes.attributes.labels().repeat_interleave(8, 0)
    said = judge.classify(images)
    kept = torch.stack([said[name] == labels[:, k] for k, name in enumerate(CLASSES) if name != "texture"]).all(0)
    return {
        "labels": right(images, labels),
        "shape, colour and background": round(kept.float().mean().item(), 4),
        "apart": apart(images),
        "any scenes apart": apart(held_out(8 * SCENES, 58).image),
    }


def interpolation(bench: Bench) -> dict[str, Any]:
    """Spearman's rank correlation of frame and judgement, mean of PAIRS pairs of pictures that share nothing; along the
    sphere, one noise for all frames of a pair, DDIM.

    Judged by the features, along the line from those of the first picture to those of the last; and by the log odds
    between the two ends' classes, whose order means little where the judge is sure, at both ends.
    """
    features = judge.load().features
    found: dict[str, Any] = {}
    for name, (first, last) in TURNS.items():
        ends = [held_out(PAIRS, seed, **fixed(name, place)).image for seed, place in ((59, first), (60, last))]
        embeds = [bench.seen(images).image_embeds for images in ends]
        rows = [bench.blended(a, b, frames=FRAMES, fraction=1.0) for a, b in zip(*embeds, strict=True)]
        images = bench.drawn(torch.cat(rows), noise(PAIRS, 61).repeat_interleave(FRAMES, 0), ddim=True).clamp(-1, 1)
        way = (features(ends[1]) - features(ends[0])).repeat_interleave(FRAMES, 0)
        logs = judge.log_probabilities(images)[name]
        judged = {"features": (features(images) * way).sum(1), "log odds": logs[:, last] - logs[:, first]}
        found[name] = {key: round(rank_correlation(row.view(PAIRS, FRAMES)), 4) for key, row in judged.items()}
    return found


def text_differences(bench: Bench) -> dict[str, Any]:
    """PAIRS pictures of a class, along the captions of it and of another, which name nothing else: how often the judge
    sees the other, and how many of the other three attributes changed; by fraction."""
    found: dict[str, Any] = {}
    for name, (first, last) in TURNS.items():
        source, target = (alone(name, place) for place in (first, last))
        embeds = bench.seen(held_out(PAIRS, 62, **fixed(name, first)).image).image_embeds
        said = []
        for fraction in (0.0, *FRACTIONS):
            given = {"method": "text difference", "clip": bench.clip, "source_text": source, "target_text": target}
            rows = [bench.blended(embed, fraction=fraction, **given) for embed in embeds]
            said.append(judge.classify(bench.drawn(torch.cat(rows), noise(PAIRS, 63), ddim=True)))
        before, others = said[0], [key for key in CLASSES if key != name]
        found[f"{source} to {target}"] = {
            str(fraction): {
                "moved": round((after[name] == last).float().mean().item(), 4),
                "others_changed": round(
                    sum((after[key] != before[key]).float().mean().item() for key in others) / 3, 4
                ),
            }
            for fraction, after in zip(FRACTIONS, said[1:], strict=True)
        }
    return found


def fixed(name: str, place: int) -> dict[str, Tensor]:
    """A class for PAIRS scenes; where it is a colour, the other one is red or white, which no turn leads to."""
    beside = {"colour": {"background": WHITE}, "background": {"colour": RED}}.get(name, {})
    return {key: torch.full((PAIRS,), value) for key, value in {name: place, **beside}.items()}


def alone(name: str, place: int) -> str:
    """The caption of a class alone."""
    return phrase([CLASSES[key][place] if key == name else None for key in CLASSES], False)


PARTS: dict[str, Callable[[Bench], Any]] = {
    "scales": scales,
    "captions": captions,
    "eight_decodings": eight_decodings,
    "interpolation": interpolation,
    "text_differences": text_differences,
}


def plot(found: dict[str, Any]) -> None:
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4.2))
    for name, cells in found["scales"].items():
        axes[0].plot([float(key) for key in cells], [cell["all"] for cell in cells.values()], "o-", label=name)
    axes[0].set_xlabel("classifier-free guidance of the decoder")
    axes[0].set_ylabel("all four attributes right (judge)")
    for name, cells in found["text_differences"].items():
        places = [float(key) for key in cells]
        label = name.replace("a shape on ", "").replace(" shape", "")
        (line,) = axes[1].plot(places, [cell["moved"] for cell in cells.values()], "o-", label=label)
        axes[1].plot(places, [cell["others_changed"] for cell in cells.values()], ":", color=line.get_color())
    axes[1].set_xlabel("fraction of a text difference")
    axes[1].set_ylabel("named attribute moved; dotted: others changed")
    for axis, place in zip(axes, ((0.02, 0.05), (0.29, 0.52)), strict=True):
        axis.set_ylim(-0.02, 1.02)
        axis.legend(fontsize=8, loc=place)
    figure.tight_layout()
    figure.savefig(RESULTS / "unclip.png", dpi=90)
    pyplot.close(figure)


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(1)
    path, made = RESULTS / "unclip.json", made_with.hashes(MADE_WITH)
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    if found.get("made_with") != made:
        found = {"made_with": made}
    bench = Bench()
    for name, measure in PARTS.items():
        if name not in found:
            found[name] = measure(bench)
            path.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
            print(name, json.dumps(found[name]), file=sys.stderr, flush=True)
    plot(found)
    made_with.record(RESULTS / "unclip.png", made)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
