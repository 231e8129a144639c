"""The package as the registry gets it: what is in it, how large it is, and what its page shows."""

import subprocess
import sys
import zlib

import pytest
from conftest import ROOT
from PIL import Image

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")
LIMIT = 45e6  # bytes
SYSTEMS = {"OS Independent", "Microsoft :: Windows", "POSIX :: Linux", "MacOS"}  # those that the registry knows
DEVICES = {f"GPU :: {name}" for name in ("NVIDIA CUDA", "AMD ROCm", "Intel Arc", "Apple Metal")} | {
    "NPU :: Huawei Ascend"
}


def git(*arguments):
    command = ["git", "-c", f"safe.directory={ROOT}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.fixture(scope="module")
def packed():
    """Tracked files that .comfyignore, which has git's own syntax, leaves in."""
    left_out = set(git("ls-files", "--cached", "--ignored", "--exclude-from", ".comfyignore"))
    return [name for name in git("ls-files") if name not in left_out]


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_what_runs_and_what_helps_is_in_the_package_and_what_develops_is_not(packed):
    folders = {name.split("/")[0] for name in packed}
    assert {
        "guidance",
        "models",
        "nodes",
        "web",
        "docs",
        "README.md",
        "LICENSE",
        "pyproject.toml",
        "__init__.py",
    } <= folders
    assert not folders & {"tests", "bench", "training", "api_examples", "dev.py", "requirements-dev.txt"}
    for name in (
        "web/docs/Guidance_StyleGuide/en.md",
        "models/demo/models/scenes_unet.safetensors",
        "requirements.txt",
    ):
        assert name in packed


def test_the_package_is_small(packed):
    assert sum(len(zlib.compress((ROOT / name).read_bytes())) for name in packed) <= LIMIT


def test_the_registry_knows_every_classifier(project):
    for classifier in project["project"]["classifiers"]:
        kind, _, name = classifier.partition(" :: ")
        assert name in {"Operating System": SYSTEMS, "Environment": DEVICES}[kind], classifier


@pytest.mark.parametrize("entry, shape", [("Icon", (1, 1)), ("Banner", (21, 9))])
def test_icon_and_banner_are_in_the_repository_in_the_registrys_shape(project, entry, shape):
    name = project["tool"]["comfy"][entry].rpartition("/main/")[2]
    width, height = Image.open(ROOT / name).size
    assert width * shape[1] == height * shape[0]
    assert entry == "Banner" or width <= 400
