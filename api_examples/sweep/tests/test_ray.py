"""The same sweeps over Ray: actors on this machine, each with a stub for its ComfyUI."""

import json
import os
import signal
from pathlib import Path

import pytest
from conftest import STUB
from test_sweep import all_once

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster():
    """The address of a cluster of two processors; drivers connect to it from processes of their own."""
    ray.init(num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


def children(process):
    """Processes by their command lines, of all that descend from one."""
    parents, lines = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            lines[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
    found = {process}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return {pid: lines.get(pid, "") for pid in found}


def actors():
    """Process numbers of the actors that drivers have started."""
    return [pid for pid, line in children(os.getpid()).items() if line.startswith("ray::") and "Actor" in line]


@pytest.mark.skipif(not Path("/proc").exists(), reason="finds the actors in /proc")
def test_actors_that_are_killed_are_restarted_and_their_jobs_repeated(sweeps, stubs, cluster):
    points = {"2.inputs.seed": list(range(1, 25)), "2.inputs.fail": [k == 5 for k in range(24)]}
    sweeps.grid.write_text(json.dumps({"zip": [points], "2.inputs.seconds": [0.1]}))
    process = sweeps.start([], "--ray", cluster, "--comfyui", STUB.parent, "--actors", "2")
    sweeps.wait_for(4, 60)
    killed = actors()
    hosts = [pid for actor in killed for pid, line in children(actor).items() if "stub_comfyui" in line]
    for actor in killed:
        os.kill(actor, signal.SIGKILL)
    said = "".join(process.communicate(timeout=90))
    assert process.returncode == 1 and "23 of 24 jobs finished, 1 failed" in said, said
    assert said.count("given up: ") == 1 and "this job always fails" in said
    assert said.count("lost: actor") == 2 and "back: actor" in said
    assert len(killed) == 2 and len(hosts) == 4  # each with its guard
    assert not any(Path(f"/proc/{pid}").exists() for pid in hosts), "a dead actor's host lives on"
    points["2.inputs.fail"][5] = False
    sweeps.grid.write_text(json.dumps({"zip": [points], "2.inputs.seconds": [0.1]}))
    assert sweeps.run(stubs(1))[0] == 0  # without Ray, in the same folder
    all_once(sweeps, 24)


def test_more_actors_than_the_cluster_has_processors_are_refused(sweeps, cluster):
    status, said = sweeps.set(seed=[1]).run([], "--ray", cluster, "--comfyui", STUB.parent, "--actors", "3")
    assert status == 2 and "sweep: --actors 3: the cluster has 2 CPUs" in said


def test_a_comfyui_that_does_not_start_is_said_with_its_log(sweeps, tmp_path, cluster):
    (tmp_path / "main.py").write_text("raise SystemExit('no module named torch')")
    status, said = sweeps.set(seed=[1]).run([], "--ray", cluster, "--comfyui", tmp_path)
    assert status == 2 and "no module named torch" in said and "none of the hosts can be used" in said


def test_a_cluster_that_is_not_there_is_one_sentence(sweeps):
    status, said = sweeps.set(seed=[1]).run([], "--ray", "127.0.0.1:9", "--comfyui", STUB.parent)
    assert status == 2 and "sweep: --ray 127.0.0.1:9: no cluster answers" in said and "Traceback" not in said


def test_ray_needs_a_comfyui(sweeps):
    status, said = sweeps.set(seed=[1]).run([], "--ray", "local")
    assert status == 2 and "name ComfyUI's folder with --comfyui" in said
