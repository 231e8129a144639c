"""Whole sweeps over stub hosts: processes are killed, folders shared, jobs fail."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pyarrow.parquet
import pytest
from conftest import STUB
from PIL import Image

SEEDS = {"from": 1, "to": 24}


def all_once(sweeps, number, *hosts):
    """As many results as jobs, each with its picture and its row; every job worked on to the end once."""
    records = sweeps.records()
    assert len(records) == number == len(list((sweeps.results / "pictures").iterdir()))
    rows = list(csv.DictReader((sweeps.results / "grid.csv").open()))
    assert {row["job"] for row in rows} == {record["job"] for record in records} and len(rows) == number
    assert {int(row["2.seed"]) for row in rows} == set(range(1, number + 1))
    if hosts:
        assert sum((host.worked_on() for host in hosts), Counter()).total() == number
    sweeps.assert_tidy()


def test_two_hosts_share_the_jobs(sweeps, stubs):
    hosts = stubs(2)
    status, said = sweeps.set(seed=SEEDS, seconds=[0.01]).run(hosts)
    assert status == 0 and "24 of 24 jobs finished, 0 failed" in said
    all_once(sweeps, 24, *hosts)
    assert all(host.worked_on() for host in hosts)


def test_a_host_that_is_killed_loses_nothing(sweeps, stubs):
    hosts = stubs(2)
    process = sweeps.set(seed=SEEDS, seconds=[0.05]).start(hosts)
    sweeps.wait_for(8)
    hosts[1].kill()
    said = "".join(process.communicate(timeout=60))
    assert process.returncode == 0 and f"lost: {hosts[1].url}" in said
    all_once(sweeps, 24)
    assert "failed" not in said.replace("0 failed", "").replace("failed 0", "")


def test_a_finished_sweep_asks_no_host_and_writes_nothing(sweeps, stubs):
    hosts = stubs(1)
    sweeps.set(seed=[1, 2, 3]).run(hosts)
    before = {path: path.stat().st_mtime_ns for path in sweeps.results.rglob("*") if path.is_file()}
    hosts[0].kill()
    began = time.monotonic()
    status, _ = sweeps.run(hosts)
    assert status == 0 and time.monotonic() - began < 3
    assert before == {path: path.stat().st_mtime_ns for path in sweeps.results.rglob("*") if path.is_file()}


def test_a_killed_driver_is_resumed_with_the_missing_jobs_alone(sweeps, stubs):
    hosts = stubs(2)
    process = sweeps.set(seed=SEEDS, seconds=[0.05]).start(hosts)
    sweeps.wait_for(8)
    process.kill()
    process.communicate()
    before = {path: path.stat().st_mtime_ns for path in sweeps.finished()}
    assert len(before) < 24
    status, _ = sweeps.run(hosts)
    assert status == 0
    all_once(sweeps, 24, *hosts)  # what the dead driver had queued was taken up, not run again
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())


def test_two_drivers_share_a_folder(sweeps, stubs):
    hosts = stubs(2)
    sweeps.set(seed=SEEDS, seconds=[0.02])
    drivers = [sweeps.start([host]) for host in hosts]
    assert all("24 of 24 jobs finished" in "".join(driver.communicate(timeout=60)) for driver in drivers)
    all_once(sweeps, 24, *hosts)
    assert all(host.worked_on() for host in hosts)


def test_one_driver_takes_over_when_the_other_is_killed(sweeps, stubs):
    hosts = stubs(2)
    sweeps.set(seed=SEEDS, seconds=[0.05])
    first, second = (sweeps.start([host]) for host in hosts)
    sweeps.wait_for(6)
    first.kill()
    first.communicate()
    assert "24 of 24 jobs finished" in "".join(second.communicate(timeout=60))
    all_once(sweeps, 24)


def test_a_job_that_always_fails_is_reported_after_its_retries_and_holds_nobody_up(sweeps, stubs):
    hosts = stubs(2)
    sweeps.set(seed=[1, 2, 3, 4], fail=[False, True]).grid.write_text(
        json.dumps({"zip": [{"2.inputs.seed": [1, 2, 3, 4], "2.inputs.fail": [False, True, False, False]}]})
    )
    status, said = sweeps.run(hosts)
    assert status == 1 and "3 of 4 jobs finished, 1 failed" in said
    assert said.count("to be tried again: node 1 (StubLoader): this job always fails") == 2
    assert said.count("given up: node 1 (StubLoader): this job always fails [2.seed=2, 2.fail=True]") == 1
    (path,) = (sweeps.results / "failed").iterdir()
    assert len(json.loads(path.read_text())["errors"]) == 3
    sweeps.assert_tidy()
    assert "given up" not in sweeps.run(hosts)[1], "a failed job waits until it is asked for"
    assert sweeps.run(hosts, "--again", "--retries", "0")[1].count("given up") == 1


def test_a_refused_prompt_names_node_and_input(sweeps, stubs):
    sweeps.workflow.write_text(sweeps.workflow.read_text().replace('"crash"', '"refuse"'))
    status, said = sweeps.set(refuse=[True]).run(stubs(1), "--retries", "0")
    assert status == 1
    assert "given up: node 1 (StubLoader), input 'refuse': Value not in list: refuse [2.refuse=True]" in said


def test_a_job_that_kills_its_hosts_is_given_up_and_its_neighbours_are_not(sweeps, stubs):
    hosts = stubs(2)
    points = {"2.inputs.seed": list(range(1, 9)), "2.inputs.crash": [k == 0 for k in range(8)]}
    # Long enough for the driver to see that one job has ended before the next one kills the host.
    sweeps.grid.write_text(json.dumps({"zip": [points], "2.inputs.seconds": [0.5]}))
    process = sweeps.start(hosts, "--retries", "1")
    for host in hosts:  # the first one is started again on its port, as a service would
        host.process.wait(20)
        if host is hosts[0]:
            port = host.url.rsplit(":", 1)[1]
            environment = {**os.environ, "STUB_LOG": str(host.log)}
            again = subprocess.Popen([sys.executable, STUB, "--port", port], env=environment)
    try:
        said = "".join(process.communicate(timeout=60))
    finally:
        again.kill()
    assert process.returncode == 1 and "7 of 8 jobs finished, 1 failed" in said


def test_a_host_that_forgets_its_job_is_asked_again(sweeps, stubs):
    sweeps.workflow.write_text(sweeps.workflow.read_text().replace('"crash"', '"forget"'))
    status, said = sweeps.set(forget=[True]).run(stubs(1), "--retries", "1")
    assert status == 1 and "no longer knows its job" in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_what_is_done_and_calls_the_rest_back(sweeps, stubs, number):
    hosts = stubs(1)
    process = sweeps.set(seed=SEEDS, seconds=[0.2]).start(hosts)
    sweeps.wait_for(2)
    process.send_signal(number)
    said = "".join(process.communicate(timeout=30))
    done = len(sweeps.finished())
    assert process.returncode == 130 and f"{done} of 24 jobs finished" in said
    time.sleep(0.5)
    assert hosts[0].worked_on().total() == done  # it was not left with our jobs
    sweeps.assert_tidy()
    assert len(list(csv.DictReader((sweeps.results / "grid.csv").open()))) == done
    status, said = sweeps.set(seed={"from": 1, "to": done + 3}, seconds=[0.2]).run(hosts)
    assert status == 0 and "again" not in said  # what was called back is not taken for a failure
    all_once(sweeps, done + 3, *hosts)


@pytest.mark.parametrize("path", ["system_stats", "history", "prompt", "queue"])
def test_a_host_that_answers_nonsense_costs_its_jobs_no_result(sweeps, stubs, path):
    (good,) = stubs(1)
    (bad,) = stubs(1, STUB_SHOWS_NONSENSE=path)
    status, said = sweeps.set(seed=[1, 2, 3, 4], seconds=[0.1]).run([good, bad])
    assert status == 0 and "4 of 4 jobs finished" in said
    if path != "queue":  # which is asked only now and then
        assert "Traceback" not in said and f"lost: {bad.url} answer" in said


def test_no_host_at_all_is_one_sentence(sweeps):
    status, said = sweeps.set(seed=[1]).run([], "--hosts", "127.0.0.1:9")
    assert status == 2 and "sweep: none of the hosts can be used (http://127.0.0.1:9)" in said


def test_something_else_than_comfyui_is_one_sentence(sweeps, stubs):
    status, said = sweeps.set(seed=[1]).run(stubs(1, STUB_SHOWS_NONSENSE="system_stats"))
    assert status == 2 and "Traceback" not in said and "no JSON" in said


def test_a_job_that_takes_too_long_is_interrupted_and_given_up(sweeps, stubs):
    hosts = stubs(1)
    status, said = sweeps.set(seconds=[30]).run(hosts, "--timeout", "1", "--retries", "0")
    assert status == 1 and "it ran longer than 1 s" in said


def test_a_dry_run_shows_the_jobs_and_touches_nothing(sweeps, stubs):
    sweeps.set(seed=[1, 2])
    status, said = sweeps.run([], "--dry-run")
    assert status == 0 and "2 jobs: 0 finished, 0 failed, 2 to do" in said and "2.seed=2" in said
    assert not sweeps.results.exists()
    sweeps.set(seed=[1]).run(stubs(1))
    assert "2 jobs: 1 finished, 0 failed, 1 to do" in sweeps.set(seed=[1, 2]).run([], "--dry-run")[1]


def test_the_results_say_how_they_were_made(sweeps, stubs):
    sweeps.set(seed=[3], text=["</script>&"]).run(stubs(1), "--pack-version", "9")
    (record,) = sweeps.records()
    assert record["settings"] == {"2.inputs.seed": 3, "2.inputs.text": "</script>&"}
    assert record["scores"] == {"Judge.brightness": 0.375} and record["pack_version"] == "9"
    with Image.open(sweeps.results / record["pictures"][0]) as picture:
        assert json.loads(picture.text["sweep"]) == record["settings"]
    table = pyarrow.parquet.read_table(sweeps.results / "grid.parquet").to_pylist()
    assert table[0]["2.seed"] == 3 and table[0]["Judge.brightness"] == 0.375
    page = (sweeps.results / "grid.html").read_text()
    assert page.count("</script>") == 2  # the values are data


def test_jobs_that_load_the_same_files_go_to_the_same_host(sweeps, stubs):
    hosts = stubs(2)
    sweeps.grid.write_text(
        json.dumps({"2.inputs.seed": {"from": 1, "to": 12}, "1.inputs.model": ["a", "b"], "2.inputs.seconds": [0.02]})
    )
    assert sweeps.run(hosts)[0] == 0
    pairs = Counter((record["host"], record["settings"]["1.inputs.model"]) for record in sweeps.records())
    assert sorted(pairs.values())[-2:] >= [10, 10], pairs


def test_a_full_disk_stops_the_sweep_in_one_sentence_and_spoils_nothing(sweeps, stubs, monkeypatch):
    resource = pytest.importorskip("resource")  # a limit on the size of files stands for the full disk
    hosts = stubs(1)
    sweeps.set(seed=[1, 2], text=["x" * 60_000])

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    status, said = sweeps.run(hosts, preexec_fn=limit)
    assert status == 2 and "results can't be written to" in said and "Traceback" not in said
    assert not sweeps.finished()
    sweeps.assert_tidy()
    assert sweeps.run(hosts)[0] == 0 and len(sweeps.finished()) == 2


def test_scheduling_costs_at_most_5_ms_of_processor_time_a_job(sweeps, stubs):
    (host,) = stubs(1)
    used = []
    for number in (50, 350):
        began = os.times()
        assert sweeps.set(seed={"from": 1, "to": number}).run([host])[0] == 0
        ended = os.times()
        used.append(ended.children_user + ended.children_system - began.children_user - began.children_system)
    assert (used[1] - used[0]) / 300 < 0.005  # seconds of this machine's processors for each further job
    assert len(sweeps.finished()) == 350
