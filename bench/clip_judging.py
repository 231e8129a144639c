"""`python dev.py bench clip_judging`: what the pack's small CLIP says of pictures, against what they show.

Zero-Shot Classify on 4096 rendered scenes, one attribute at a time. Rank Images by Text: 64 captions of two attributes,
each with 16 pictures that the shipped U-Net drew of nothing in particular, 4 kept; the share of kept pictures with both
attributes by the judge, against the share of all sixteen. Writes `bench/results/clip_judging.json`.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from training.captions import phrase
from training.scenes import CLASSES, draw, render

from . import judge, made_with
from .host_server import PACK
from .pack import Pack, ksampler

RESULTS = PACK / "bench" / "results"
SCENES, SEED = 4096, 880_101
TEMPLATES = {"shape": "a {}", "colour": "a {} shape", "background": "a shape on a {}", "texture": "a {} shape"}
CAPTIONS, OF, KEPT, POOL = 64, 16, 4, 512  # POOL pictures are drawn; each caption has 16 of them


class Bench(Pack):
    def __init__(self) -> None:
        super().__init__()
        self.model = self.node("Guidance_LoadModel", model_name="scenes_unet.safetensors")[0]
        self.encoder = self.node("Guidance_LoadEncoder", encoder_name="scenes_clip.safetensors")[0]

    def zero_shot(self) -> dict[str, float]:
        scenes = render(draw(SCENES, torch.Generator().manual_seed(SEED)))
        images, found = as_images(scenes.image), {}
        for k, (name, classes) in enumerate(CLASSES.items()):
            given = {"images": images, "labels": "\n".join(classes), "templates": TEMPLATES[name]}
            said = self.node("Guidance_ZeroShotClassify", encoder=self.encoder, **given)[0].split("\n")
            wanted = [classes[index] for index in scenes.attributes.labels()[:, k].tolist()]
            found[name] = round(sum(map(str.__eq__, said, wanted)) / SCENES, 4)
        return found

    def pool(self) -> Tensor:
        """[POOL 3 32 32] of no class."""
        (nothing,) = self.node("Guidance_ClassConditioning", model=self.model, class_label="")
        noise = torch.randn(POOL, 3, 32, 32, generator=torch.Generator().manual_seed(SEED))
        return torch.cat([ksampler(self.model, 1.0, nothing, nothing, part, 20) for part in noise.split(64)])

    def ranking(self) -> dict[str, float]:
        """Captions of the colour and background of one of their own sixteen, so that at least one is right."""
        pool, generator = self.pool(), torch.Generator().manual_seed(SEED)
        said = judge.classify(pool)
        kept_right, all_right = [], []
        for _ in range(CAPTIONS):
            rows = torch.randperm(POOL, generator=generator)[:OF]
            colour, background = (said[name][rows] for name in ("colour", "background"))
            caption = phrase([None, CLASSES["colour"][colour[0]], CLASSES["background"][background[0]], None], False)
            right = (colour == colour[0]) & (background == background[0])
            given = {"images": as_images(pool[rows]), "text": caption, "keep": KEPT}
            order = self.node("Guidance_RankImages", encoder=self.encoder, **given)[1]
            kept_right.append(right[order].float().mean().item())
            all_right.append(right.float().mean().item())
        best, random = (sum(shares) / CAPTIONS for shares in (kept_right, all_right))
        return {"best 4": round(best, 4), "random 4": round(random, 4), "ratio": round(best / random, 3)}


def as_images(pictures: Tensor) -> Tensor:
    """[B 3 H W] in [-1, 1] -> IMAGE."""
    return pictures.clamp(-1, 1).add(1).div(2).movedim(1, -1)


def main() -> None:
    torch.set_num_threads(1)
    with torch.inference_mode():
        bench = Bench()
        found: dict[str, Any] = {
            "made_with": made_with.hashes((made_with.UNET, made_with.CLIP, made_with.JUDGE)),
            "zero-shot": bench.zero_shot(),
            "ranking": bench.ranking(),
        }
    (RESULTS / "clip_judging.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
