"""The dependency rule, read from the source: who may import whom."""

import ast
import re

import pytest
from conftest import ROOT

PURE = {"torch", "safetensors", "kornia", "open_clip", "numpy", "tokenizers"}
HOST = {"comfy", "comfy_extras", "folder_paths", "nodes", "execution", "server", "latent_preview", "node_helpers"}
OURS = {"guidance", "models", "nodes", "training", "bench", "tests", "dev"}
STANDARD = __import__("sys").stdlib_module_names


def files(folder):
    return sorted(path for path in (ROOT / folder).rglob("*.py"))


def imports(path):
    """Top-level names imported anywhere in a file; relative imports as the folder they lead to."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            start = path.parent
            for _ in range(node.level - 1):
                start = start.parent
            parts = [*start.relative_to(ROOT).parts, *(node.module or "").split(".")]
            found |= {parts[0]} if parts[0] else {alias.name for alias in node.names}
    return found - STANDARD - {"__future__"}


@pytest.mark.parametrize("layer", ["guidance", "models"])
def test_the_core_imports_neither_the_host_nor_the_other_half(layer):
    for path in files(layer):
        assert imports(path) <= PURE | {layer}, path


def test_nodes_import_the_core_but_no_training_or_benchmark():
    for path in files("nodes"):
        assert not imports(path) & {"training", "bench", "tests"}, path


def test_only_nodes_host_knows_the_hosts_insides():
    for path in files("nodes"):
        if "host" not in path.relative_to(ROOT / "nodes").parts:
            assert not imports(path) & (HOST - {"nodes"}), path


def test_training_needs_no_host():
    """But for the transformer, whose architecture is the host's own."""
    allowed = {"torch", "numpy", "safetensors", "PIL", "training", "models", "guidance"}
    for path in files("training"):
        assert imports(path) <= allowed | ({"comfy"} if path.stem == "transformer" else set()), path


def test_nothing_but_benchmarks_and_tests_imports_the_judge():
    for layer in ("guidance", "models", "nodes", "training"):
        for path in files(layer):
            assert "bench" not in imports(path), path


def test_dev_and_the_host_server_use_the_standard_library_alone():
    assert imports(ROOT / "dev.py") <= {"bench"}
    assert imports(ROOT / "bench" / "host_server.py") == set()


def test_the_host_rooms_are_small():
    """A folder holds at most 12 files, a file 300 lines, a function 40."""
    host = ROOT / "nodes" / "host"
    for folder in {path.parent for path in files("nodes/host")}:
        assert len(list(folder.glob("*.py"))) <= 12, folder
    for path in host.rglob("*.py"):
        text = path.read_text("utf-8")
        assert len(text.splitlines()) <= 300, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno - node.lineno < 40, f"{path}: {node.name}"


def test_a_room_imports_no_private_name_of_another():
    for path in files("nodes"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert not [alias.name for alias in node.names if alias.name.startswith("_")], path


def test_no_file_is_longer_than_its_concept():
    for layer in OURS - {"dev"}:
        for path in files(layer):
            limit = 600 if path.name == "network.py" else 400
            assert len(path.read_text("utf-8").splitlines()) <= limit, path


def test_no_test_looks_at_the_clock_on_the_wall():
    """A busy machine is no fault: what may take how long is counted in work, or in the processor's seconds."""
    clock = re.compile(r"time\.(perf_counter|monotonic)")
    assert [path.name for path in files("tests") if clock.search(path.read_text("utf-8"))] == []
