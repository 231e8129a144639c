"""Whole files and claims, on a disk and in object storage."""

import os
import subprocess
import sys
import threading
import uuid

import pytest

from sweep import claims as module
from sweep.claims import Claims
from sweep.errors import SweepError
from sweep.store import Store, place


@pytest.fixture(params=["disk", "memory"])
def folder(request, tmp_path):
    return str(tmp_path / "results [1]") if request.param == "disk" else f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def driver(folder):
    """driver(): one more driver of the folder. None of them may know the others by their process alone."""

    def enter(writer=None):
        store = Store(folder)
        store.writer = writer or f"elsewhere~1~{uuid.uuid4().hex}"
        store.prepare()
        return Claims(store).__enter__()

    return enter


def test_of_many_drivers_one_gets_the_job(driver):
    drivers, taken = [driver() for _ in range(8)], []
    start = threading.Barrier(8)

    def take(one):
        start.wait()
        taken.append(one.take("job"))

    threads = [threading.Thread(target=take, args=(one,)) for one in drivers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 1


def test_a_released_job_can_be_taken_and_leaves_nothing(driver):
    one, other = driver(), driver()
    assert one.take("job") and not other.take("job")
    one.release("job")
    assert other.take("job")
    other.release("job")
    assert not one.store.names("claims")


def test_the_claim_of_a_driver_without_signs_of_life_is_taken_over_once(driver, monkeypatch):
    dead, one, other = driver(), driver(), driver()
    assert dead.take("job") and not one.take("job")
    dead.ended.set()
    dead.store.remove(f"drivers/{dead.me}")
    assert one.left() == {"job"}
    assert [one.take("job"), other.take("job")] == [True, False]
    assert other.left() == {"job"}  # the dead one's claim stays below until the job is done
    one.release("job")
    assert not one.store.names("claims")


def test_a_driver_is_dead_when_its_last_sign_of_life_is_old(driver, monkeypatch):
    frozen, one = driver(), driver()
    frozen.take("job")
    assert one.alive(frozen.me)
    monkeypatch.setattr(module, "STALE", -1.0)
    assert not one.alive(frozen.me) and one.take("job")


def test_a_process_of_this_machine_that_ended_is_dead_at_once(driver):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    gone, here = driver(f"{place()}~{ended.pid}~aa"), driver(f"{place()}~{os.getpid()}~bb")
    assert gone.take("job")
    assert not here.alive(gone.me) and here.alive(here.me)
    here.store.write("parts/half", b"")
    here.store.fs.mv(here.store.path("parts/half"), here.store.path(f"parts/{gone.me}~cc"))
    driver().__exit__()
    assert here.store.names("drivers") == {here.me} and not here.store.names("parts")


def test_leaving_gives_back_everything(driver):
    one = driver()
    one.take("a"), one.take("b")
    one.__exit__()
    assert not one.store.names("claims") and not one.store.names("drivers")


def test_a_file_is_whole_or_not_there(folder):
    store = Store(folder)
    store.prepare()
    store.write("results/a.json", b"1")
    store.write("results/a.json", b"2")
    assert store.read("results/a.json") == b"2" and store.jobs("results") == {"a"}
    assert store.create("claims/a.0", b"x") and not store.create("claims/a.0", b"y")
    assert store.read("claims/a.0") == b"x" and store.read("claims/b.0") is None
    assert store.exists("claims/a.0") and not store.exists("claims/b.0")
    assert not store.names("parts")


def test_records_are_read_by_name_and_missing_ones_left_out(folder):
    store = Store(folder)
    store.prepare()
    store.write("results/a.json", b'{"n": 1}')
    assert store.records(["a", "b"]) == {"a": {"n": 1}} and store.records([]) == {}


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SweepError, match="no results can be written to"):
        Store(str(tmp_path / "file" / "results")).prepare()


def test_a_storage_without_its_package_is_said():
    with pytest.raises(SweepError, match="nosuch://x can't be opened"):
        Store("nosuch://x")
