"""`python dev.py bench scoring`: Score Guide with a head of half of the scenes against Classifier Guide, judged.

64 pictures a setting (8 goals, 8 pictures each, the same noise for every setting) of the shipped unconditional model,
20 steps of euler_ancestral. The head saw no scene of odd shape and colour (`training/scorer.py`) and no noise; the
classifier saw all scenes at all noise. Score: the judge's mean probability of the goal, and its share of right answers.
Writes `bench/results/scoring.json` after every setting, so a run resumes.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import torch
from torch import Tensor

from training.scenes import CLASSES

from . import judge, made_with
from .cfg import noise_of
from .host_server import PACK
from .pack import Pack, ksampler
from .shape_accuracy import sheet

RESULTS = PACK / "bench" / "results" / "scoring.json"
SCORER = made_with.DEMO / "scorers" / "scenes_scorer.safetensors"
GOALS, EACH, STEPS = 8, 8, 20
ATTRIBUTES = ("shape", "colour")
WEIGHTS = {"label": (8.0, 16.0), "score": (1.0, 2.0)}
WHOLE = {"start_percent": 0.0, "end_percent": 1.0}


class Bench(Pack):
    def __init__(self) -> None:
        super().__init__()
        self.model = self.node("Guidance_LoadModel", model_name="scenes_unet.safetensors")[0]
        self.encoder = self.node("Guidance_LoadEncoder", encoder_name="scenes_clip.safetensors")[0]
        self.scorer = self.node("Guidance_LoadScorer", scorer_name=SCORER.name)[0]
        self.classifier = self.node("Guidance_LoadClassifier", classifier_name="scenes_classifier.safetensors")[0]
        self.nothing = self.node("Guidance_ClassConditioning", model=self.model, class_label="")[0]

    def guide(self, kind: str, label: str, weight: float) -> Any:
        if kind == "label":
            given = {"classifier": self.classifier, "class_label": label}
            return self.node("Guidance_ClassifierGuide", weight=weight, **given, **WHOLE)[0]
        given = {"encoder": self.encoder, "scorer": self.scorer, "output": label}
        return self.node("Guidance_ScoreGuide", weight=weight, **given, **WHOLE)[0]

    def drawn(self, kind: str, attribute: str, weight: float) -> Tensor:
        """[64 3 32 32], goal by goal."""
        labels = "\n".join(name for name in CLASSES[attribute][:GOALS] for _ in range(EACH))
        model = self.model
        if kind != "unguided":
            model = self.node("Guidance_ApplyGuides", model=model, guides=self.guide(kind, labels, weight))[0]
        noise = noise_of(GOALS * EACH, 21)
        return ksampler(model, 1.0, self.nothing, self.nothing, noise, STEPS, "euler_ancestral").clamp(-1, 1)


def readings(images: Tensor, attribute: str) -> dict[str, float]:
    wanted = torch.arange(GOALS).repeat_interleave(EACH)
    said = judge.log_probabilities(images)[attribute]
    return {
        "score": round(said.gather(1, wanted[:, None]).exp().mean().item(), 4),
        "match": round((said.argmax(1) == wanted).float().mean().item(), 4),
    }


def settings() -> list[tuple[str, str, float]]:
    """(guide, attribute, weight)."""
    found = [("unguided", attribute, 0.0) for attribute in ATTRIBUTES]
    return found + [
        (kind, name, weight) for kind, weights in WEIGHTS.items() for name in ATTRIBUTES for weight in weights
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench scoring")
    parser.add_argument("--sheets", help="a folder for pictures of each setting, to look at")
    given = parser.parse_args()
    torch.set_num_threads(1)
    made = made_with.hashes((made_with.UNET, made_with.CLIP, made_with.CLASSIFIER, made_with.JUDGE, SCORER))
    found: dict[str, Any] = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    if found.get("made_with") != made:
        found = {"made_with": made, "n": GOALS * EACH, "steps": STEPS, "settings": {}}
    with torch.inference_mode():
        bench = Bench()
        for kind, attribute, weight in settings():
            name = f"{kind} {attribute}" + f", weight {weight:g}" * bool(weight)
            if name in found["settings"]:
                continue
            images = bench.drawn(kind, attribute, weight)
            found["settings"][name] = readings(images, attribute)
            RESULTS.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
            print(f"[bench] {name}: {found['settings'][name]}", file=sys.stderr, flush=True)
            if given.sheets:
                sheet(images).save(f"{given.sheets}/{name.replace(' ', '_').replace(',', '')}.png")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
