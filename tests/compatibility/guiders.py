"""The guiders of the host and ours, each with its formula."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hosts import hosts_own


@dataclass(frozen=True, eq=False)
class Guider:
    """`build(models, rows, scale)`; D is `formula(rows, scale)`; `owners` says which model predicts a row."""

    build: Callable[..., Any]
    formula: Callable[..., torch.Tensor]
    owners: dict[str, str]  # row -> model; the rows p, m, n are CONDITIONING, another letter p of a second model
    patched: str = "main"
    scaled: bool = True  # has a scale that CFG Patch can set


def basic(scene, models, rows, scale):
    from comfy_extras.nodes_custom_sampler import BasicGuider

    return BasicGuider.execute(models["main"], rows["p"]).args[0]


def plain(scene, models, rows, scale):
    from comfy_extras.nodes_custom_sampler import CFGGuider

    return CFGGuider.execute(models["main"], rows["p"], rows["n"], scale).args[0]


def dual_cfg(style):
    def build(scene, models, rows, scale):
        from comfy_extras.nodes_custom_sampler import DualCFGGuider

        return DualCFGGuider.execute(models["main"], rows["p"], rows["m"], rows["n"], 2.0, scale, style).args[0]

    return build


def dual_model(scene, models, rows, scale):
    kind = hosts_own("comfy_extras.nodes_custom_sampler", "DualModelGuider")
    return kind.execute(models["main"], rows["p"], scale, models["second"], rows["n"]).args[0]


def perp_neg(scene, models, rows, scale):
    from comfy_extras.nodes_perpneg import PerpNegGuider

    return PerpNegGuider.execute(models["main"], rows["p"], rows["m"], rows["n"], scale, 1.0).args[0]


def perp_neg_formula(p, m, n, scale):
    from comfy_extras import nodes_perpneg

    return nodes_perpneg.perp_neg(None, p, m, n, 1.0, scale)


def combiner(scene, models, rows, scale, weaker=False):
    more = {"reference": "model", "model": models["second"]} if weaker else {}
    make = scene.execute
    conditions = [make("Guidance_CFGCondition", conditioning=rows["p"], guidance_scale=scale, **more)[0]]
    if not weaker:
        conditions += make("Guidance_CFGCondition", conditioning=rows["m"], guidance_scale=1.5)
    wired = {f"condition{index}": condition for index, condition in enumerate(conditions)}
    given = {"conditions": wired, "negative": rows["n"], "method": {"method": "constant"}}
    return make("Guidance_CFGCombiner", model=models["main"], **given)[0]


def autoguidance(scene, models, rows, scale):
    return combiner(scene, models, rows, scale, weaker=True)


def guided(p, n, scale):
    return n + scale * (p - n)


PN, PMN = {"p": "main", "n": "main"}, {"p": "main", "m": "main", "n": "main"}
TWO, WEAK = {"p": "main", "n": "second"}, {"p": "main", "w": "second"}
GUIDERS = {
    "BasicGuider": Guider(basic, lambda p, scale: p, {"p": "main"}, scaled=False),
    "CFGGuider": Guider(plain, guided, PN),
    "DualCFGGuider, regular": Guider(
        dual_cfg("regular"), lambda p, m, n, scale: n + scale * (m - n) + 2.0 * (p - m), PMN, scaled=False
    ),
    "DualCFGGuider, nested": Guider(
        dual_cfg("nested"), lambda p, m, n, scale: n + scale * (m + 2.0 * (p - m) - n), PMN, scaled=False
    ),
    "DualModelGuider": Guider(dual_model, guided, TWO),
    "DualModelGuider, patch on model_negative": Guider(dual_model, guided, TWO, "second", scaled=False),
    "PerpNegGuider": Guider(perp_neg, perp_neg_formula, PMN),
    "CFG Combiner": Guider(combiner, lambda p, m, n, scale: n + scale * (p - n) + 1.5 * (m - n), PMN, scaled=False),
    "CFG Combiner, reference model": Guider(autoguidance, lambda p, w, scale: w + scale * (p - w), WEAK, scaled=False),
    "CFG Combiner, patch on that model": Guider(
        autoguidance, lambda p, w, scale: w + scale * (p - w), WEAK, "second", scaled=False
    ),
}
