"""`python dev.py bench import_time`: what loading the pack adds to the host's start, best of five processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from .host_server import PACK

PROBE = """
import asyncio, importlib.util, sys, time
sys.path.insert(0, {host!r})
sys.argv = ["main.py", "--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
import nodes, comfy.sd, comfy.samplers, comfy.supported_models_base, latent_preview, comfy_api.latest
started = time.perf_counter()
spec = importlib.util.spec_from_file_location("probe", {root!r} + "/__init__.py", submodule_search_locations=[{root!r}])
module = importlib.util.module_from_spec(spec)
sys.modules["probe"] = module
spec.loader.exec_module(module)
extension = asyncio.run(module.comfy_entrypoint())
asyncio.run(extension.on_load())
[node.GET_SCHEMA() for node in asyncio.run(extension.get_node_list())]
print(time.perf_counter() - started)
"""


def main() -> None:
    code = PROBE.format(host=os.environ["COMFYUI_PATH"], root=str(PACK))
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(5)]
    seconds = sorted(float(run.stdout.splitlines()[-1]) for run in runs)
    print(json.dumps({"seconds": round(seconds[0], 3), "slowest": round(seconds[-1], 3)}))


if __name__ == "__main__":
    main()
