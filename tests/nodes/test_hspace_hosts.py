"""HSpace Edit gives the same pictures on hosts that hand out the bottleneck and on hosts that don't.

Host 0.18 evaluates the whole U-Net again for an edit, host 0.30 its decoder half. Each has a process of its own.
"""

import importlib.util
import json
import os
import subprocess
import sys

import golden_files
import pytest
from conftest import ROOT
from safetensors import safe_open

pytestmark = [pytest.mark.host, pytest.mark.slow]
OLD, NEW = "0.18.2", "0.30.0"
RUNS = [f"{unet} {edit}" for unet in ("SD1.5", "SDXL") for edit in ("plain", "asymmetric", "symmetric")]
EDITED = [name for name in RUNS if "plain" not in name]
ROUNDING = 1e-5  # of the largest number; measured on one CPU thread with torch 2.11, every bit agrees


def comfyui(version):
    """Its folder, from the developer's cache or the net."""
    spec = importlib.util.spec_from_file_location("dev", ROOT / "dev.py")
    dev = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(dev)
    return dev.comfyui(version)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    """By version: latents of every run, and how often each half of the U-Net ran."""
    found = {}
    for version in (OLD, NEW):
        path = tmp_path_factory.mktemp("hosts") / f"{version}.safetensors"
        variables = {**os.environ, "COMFYUI_PATH": str(comfyui(version)), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, str(ROOT / "tests" / "hspace_on_host.py"), str(path)]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        with safe_open(path, "pt") as file:
            calls = json.loads(file.metadata()["calls"])
            found[version] = {name: (file.get_tensor(name), calls[name]) for name in file.keys()}
    return found


@pytest.mark.parametrize("name", RUNS)
def test_both_hosts_give_the_same_latents(hosts, name):
    old, new = (hosts[version][name][0] for version in (OLD, NEW))
    off = golden_files.relative_error(old, new)
    assert new.isfinite().all()
    assert off < ROUNDING, f"{name}: {off:.2e} of the largest number"


@pytest.mark.parametrize("name", EDITED)
@pytest.mark.parametrize("version", [OLD, NEW])
def test_the_edit_is_far_above_rounding(hosts, version, name):
    plain, _ = hosts[version][f"{name.split()[0]} plain"]
    assert golden_files.relative_error(hosts[version][name][0], plain) > 1000 * ROUNDING


@pytest.mark.parametrize("name", EDITED)
def test_the_old_host_evaluates_everything_again_and_the_new_one_its_decoder_half(hosts, name):
    plain = hosts[NEW][f"{name.split()[0]} plain"][1]
    old, new = (hosts[version][name][1] for version in (OLD, NEW))
    assert plain["encoder"] == plain["decoder"] == new["encoder"]
    assert new["decoder"] > plain["decoder"]
    assert old == {"encoder": new["decoder"], "decoder": new["decoder"]}
