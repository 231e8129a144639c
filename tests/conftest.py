"""Loads the repository the way the host loads a node pack: as one package, here `pack`.

Its root never enters `sys.path`, where our `nodes/` would shadow the host's `nodes.py`. Scripts run from the root, so
their packages are known by their own names too.
"""

import importlib.util
import os
import sys
from functools import partial
from pathlib import Path

import pytest
from host_matrix import record, sampled

ROOT = Path(__file__).resolve().parents[1]


def pytest_addoption(parser):
    parser.addoption("--cases", type=int, help="at most so many cases of each test function")


def pytest_collection_modifyitems(config, items):
    if cases := config.getoption("--cases"):
        items[:], left = sampled(items, cases)
        config.hook.pytest_deselected(items=left)


def pytest_terminal_summary(terminalreporter):
    """GUIDANCE_RECORD_HOST says what was run; the page of hosts says what came of it."""
    if what := os.environ.get("GUIDANCE_RECORD_HOST"):
        record(terminalreporter.stats, host_folder(), what, again=bool(terminalreporter.config.getoption("lf")))


def load_package(name, folder):
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


load_package("pack", ROOT)
for script_package in ("models", "training", "bench"):
    load_package(script_package, ROOT / script_package)


def host_folder():
    """The ComfyUI to test on. Its absence is an error, never a skip."""
    path = os.environ.get("COMFYUI_PATH")
    if not path or not (Path(path) / "main.py").exists():
        pytest.exit(f"COMFYUI_PATH is {path!r}, a ComfyUI folder is needed; run `python dev.py test`", returncode=4)
    return Path(path)


def device_flags():
    """The host's flags for the device to test on: the CPU, or with GUIDANCE_TEST_DEVICE=auto whatever the host chooses.

    Where there is no accelerator the host has to be told so.
    """
    import torch

    chooses = os.environ.get("GUIDANCE_TEST_DEVICE") == "auto" and torch.accelerator.is_available()
    return () if chooses else ("--cpu",)


@pytest.fixture(scope="session")
def comfy(tmp_path_factory):
    """The host's modules, importable in this process, with folders of their own."""
    folder = host_folder()
    base = tmp_path_factory.mktemp("comfy")
    sys.path.insert(0, str(folder))
    arguments, sys.argv = sys.argv, ["main.py", *device_flags(), "--base-directory", str(base)]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.cli_args
    import utils.extra_config  # noqa: F401  # as the host does: `nodes` puts a folder in front that has another `utils`

    import nodes

    sys.argv = arguments
    return nodes


@pytest.fixture(scope="session")
def pack_nodes(comfy):
    """The pack's node classes by id, as the host gets them."""
    import asyncio

    import pack

    async def load():
        extension = await pack.comfy_entrypoint()
        await extension.on_load()
        return await extension.get_node_list()

    return {node.GET_SCHEMA().node_id: node for node in asyncio.run(load())}


def run_node(pack_nodes, node_id, **inputs):
    """Runs one node as the host does, on a locked clone in inference mode; the schema gives defaults."""
    import torch

    from nodes import before_node_execution

    node = pack_nodes[node_id]
    defaults = {entry.id: getattr(entry, "default", None) for entry in node.GET_SCHEMA().inputs}
    given = {key: value for key, value in {**defaults, **inputs}.items() if value is not None}
    with torch.inference_mode():
        before_node_execution()  # what a cancel ends at
        return node.PREPARE_CLASS_CLONE(None).execute(**given).args


@pytest.fixture
def execute(pack_nodes):
    """`run_node` with the pack's nodes."""
    return partial(run_node, pack_nodes)


@pytest.fixture(scope="module")
def encoder(pack_nodes):
    """The pack's own noise-aware encoder."""
    return run_node(pack_nodes, "Guidance_LoadEncoder", encoder_name="scenes_clip.safetensors")[0]


@pytest.fixture(scope="module")
def models(pack_nodes):
    """(MODEL, VAE) of each kind of the pack's own models."""
    from guided_sampling import KINDS

    return {kind: run_node(pack_nodes, "Guidance_LoadModel", model_name=f"{kind}.safetensors") for kind in KINDS}


@pytest.fixture(scope="session")
def server():
    """A real ComfyUI with the pack, on a free port."""
    from bench.host_server import running

    with running(host_folder(), flags=device_flags(), beside=ROOT / "tests" / "server" / "stand_ins") as host:
        yield host
