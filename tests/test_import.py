"""What loading the pack does to the host: nothing but adding nodes."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT, host_folder

PROBE = """
import asyncio, importlib.util, io, json, socket, sys, time, contextlib
sys.path.insert(0, {host!r})
sys.argv = ["main.py", "--cpu", "--base-directory", {base!r}]
import comfy.options
comfy.options.enable_args_parsing()
import nodes, folder_paths, comfy.sd, comfy.samplers, comfy.supported_models_base, latent_preview, comfy_api.latest

def contents():
    return {{
        (name, key): id(value)
        for name, module in list(sys.modules.items())
        if name.split(".")[0] in ("comfy", "nodes", "folder_paths", "execution", "latent_preview", "comfy_extras")
        for key, value in vars(module).items()
        if key not in ("__warningregistry__",)
    }}

calls = []
socket.socket.connect = lambda *a: calls.append(a)
before = contents()
known = set(sys.modules)
out, err = io.StringIO(), io.StringIO()
started = time.process_time()
with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    root = {root!r}
    spec = importlib.util.spec_from_file_location("probe", root + "/__init__.py", submodule_search_locations=[root])
    module = importlib.util.module_from_spec(spec)
    sys.modules["probe"] = module
    spec.loader.exec_module(module)
    extension = asyncio.run(module.comfy_entrypoint())
    asyncio.run(extension.on_load())
    found = asyncio.run(extension.get_node_list())
    [node.GET_SCHEMA() for node in found]
seconds = time.process_time() - started
after = contents()
print(json.dumps({{
    "seconds": seconds, "nodes": len(found), "connections": len(calls), "printed": out.getvalue() + err.getvalue(),
    "changed": [key for key in before if after.get(key) != before[key]],
    "heavy": sorted(name for name in ("open_clip", "kornia") if name in set(sys.modules) - known),
}}))
"""


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    base = str(tmp_path_factory.mktemp("probe"))
    code = PROBE.format(host=str(host_folder()), base=base, root=str(ROOT))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.host
def test_importing_changes_no_host_module(probe):
    assert probe["nodes"] > 0
    assert probe["changed"] == []


@pytest.mark.host
def test_importing_opens_no_connection_and_prints_nothing(probe):
    assert probe["connections"] == 0
    assert probe["printed"] == ""


@pytest.mark.host
def test_importing_is_quick_and_leaves_heavy_libraries_alone(probe):
    # of the processor; 0.5 s are measured by `dev.py bench import_time`, and this guards the order
    assert probe["seconds"] < 5
    assert probe["heavy"] == []
