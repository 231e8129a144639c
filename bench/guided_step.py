"""`python dev.py bench guided_step`: what one classifier-guided step costs, against its parts measured alone.

On the shipped models, 16 pictures, one thread, process CPU time, interleaved pairs. Calls are counted, too.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
import tempfile
from typing import Any

import torch

from .host_server import PACK
from .pairs import ratio

BATCH, STEPS = 16, 5


def load_pack(*flags: str, cpu: bool = True) -> dict[str, Any]:
    """The pack's nodes inside the host's modules, in this process; `flags` are the host's beside --cpu."""
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    arguments, sys.argv = sys.argv, ["main.py", "--base-directory", tempfile.mkdtemp(), *["--cpu"] * cpu, *flags]
    import comfy.options

    comfy.options.enable_args_parsing()
    import nodes  # noqa: F401

    sys.argv = arguments
    spec = importlib.util.spec_from_file_location("pack", PACK / "__init__.py", submodule_search_locations=[str(PACK)])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["pack"] = module
    spec.loader.exec_module(module)
    extension = asyncio.run(module.comfy_entrypoint())
    asyncio.run(extension.on_load())
    return {node.GET_SCHEMA().node_id: node for node in asyncio.run(extension.get_node_list())}


def measure() -> dict[str, Any]:
    pack = load_pack()
    import comfy.samplers

    host: Any = importlib.import_module("pack.nodes.host.sampling")
    guides: Any = importlib.import_module("pack.nodes.host.guides.classifier")
    sampling: Any = importlib.import_module("pack.guidance.sampling")
    given = {"model_name": "scenes_unet.safetensors", "clip_denoised": True, "schedule": "auto", "heads": "auto"}
    model = pack["Guidance_LoadModel"].execute(**given).args[0]
    (classifier,) = pack["Guidance_LoadClassifier"].execute(classifier_name="scenes_classifier.safetensors").args
    positive = pack["Guidance_ClassConditioning"].execute(model=model, class_label="").args[0]
    x = torch.randn(BATCH, 3, 32, 32)
    gradient = guides.classifier_gradient(classifier, torch.arange(BATCH) % 8, 4.0)
    sigmas = host.respaced_sigmas(model, str(STEPS))
    network = model.model.diffusion_model.network
    t, y = torch.full((BATCH,), 500), torch.full((BATCH,), 29)
    level = torch.full((BATCH,), 3.0)
    calls = {"network": 0, "classifier": 0}
    network.register_forward_hook(lambda *_: calls.__setitem__("network", calls["network"] + 1))
    classifier.patcher.model.register_forward_hook(lambda *_: calls.__setitem__("classifier", calls["classifier"] + 1))

    def run(guidance: Any) -> None:
        guider = comfy.samplers.CFGGuider(model)
        guider.inner_set_conds({"positive": positive})
        sampler = host.published_sampler(sampling.sample_ddim, False, guidance)
        guider.sample(x, torch.zeros_like(x), sampler, sigmas, disable_pbar=True, seed=0)

    def parts() -> None:
        for _ in range(STEPS):
            network(x, t, y)

    def guided_parts() -> None:
        parts()
        for _ in range(STEPS):
            gradient(x, level)

    with torch.inference_mode():
        run(gradient)
        counted = {f"{name}_calls_a_guided_step": value / STEPS for name, value in calls.items()}
        return {
            **counted,
            "host_loop_over_network_alone": ratio(parts, lambda: run(None)),
            "guided_run_over_its_parts": ratio(guided_parts, lambda: run(gradient)),
            "guided_run_over_plain_run": ratio(lambda: run(None), lambda: run(gradient)),
        }


def main() -> None:
    torch.set_num_threads(1)
    result = measure()
    (PACK / "bench" / "results" / "guided_step.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
