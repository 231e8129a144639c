"""`python dev.py bench cfg_guider`: constant CFG through CFG Combiner against the host's CFGGuider, and CFG Patch.

The shipped U-Net, 8 pictures, 5 steps of euler at cfg 4.5; process CPU time of one thread, interleaved pairs.
"""

from __future__ import annotations

import json
from typing import Any

import torch

from .cfg import Bench, noise_of
from .host_server import PACK
from .pairs import ratio

RESULT = PACK / "bench" / "results" / "cfg_guider.json"
SCALE, BATCH, STEPS = 4.5, 8, 5


def main() -> None:
    torch.set_num_threads(1)
    with torch.inference_mode():
        bench = Bench()
        import comfy.samplers

        star, nothing = bench.conditioning("star"), bench.conditioning("")
        host = comfy.samplers.CFGGuider(bench.model)
        host.set_conds(star, nothing)
        host.set_cfg(SCALE)
        one = bench.node("Guidance_CFGCondition", conditioning=star, guidance_scale=SCALE)[0]
        wired = {"conditions": {"condition0": one}, "negative": nothing, "method": {"method": "constant"}}
        ours = bench.node("Guidance_CFGCombiner", model=bench.model, **wired)[0]
        patched = comfy.samplers.CFGGuider(bench.patch("constant", SCALE))
        patched.set_conds(star, nothing)
        noise = noise_of(BATCH, 0)
        sigmas = comfy.samplers.calculate_sigmas(bench.model.model.model_sampling, "normal", STEPS)

        def run(guider: Any) -> None:
            sampler = comfy.samplers.sampler_object("euler")
            guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True, seed=0)

        result = {
            "combiner": ratio(lambda: run(host), lambda: run(ours)),
            "patch": ratio(lambda: run(host), lambda: run(patched)),
        }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
