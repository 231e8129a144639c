"""Which ComfyUI the tests were run on, what was found there, and the page that says so."""

import json
import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECORD, PAGE = Path(__file__).with_name("hosts.json"), ROOT / "docs" / "hosts.md"
HEAD = """# ComfyUI versions

The oldest is what `requires-comfyui` in `pyproject.toml` says. Numbers of tests, each row written by a test run; what
was not run is not counted. Versions up to 0.30 ran with the packages that 0.30.0 asks for, later ones with those that
they ask for themselves (frontend, comfy-kitchen, comfy-aimdo).

| ComfyUI | tests run | passed | failed | skipped |
| --- | --- | --- | --- | --- |
"""
FOOT = """
A row is written by, for instance,

    GUIDANCE_RECORD_HOST="one case of each test" python dev.py --host 0.18 test --cases 1

and completed, once what failed is mended, by the same command with `--lf`.

`--host 0.33` needs GitHub, the others PyPI or GitHub. For a version that `dev.py` doesn't know, `COMFYUI_PATH` names
its folder.
"""
DIFFERENCES = """
## What older versions do another way

- Before 0.24 a U-Net of the host (SD1.5, SDXL) shows nodes nothing behind its middle block. HSpace Edit evaluates the
  whole network again there, where later versions run its decoder half, and in half precision a small asymmetric edit is
  lost in rounding. The log says so, once. This pack's own models don't mind.
- Before 0.24 there is no Dual Model CFG Guider, before 0.27 no node that multiplies a CONDITIONING: nothing of this
  pack needs them.
- Before 0.24 the host has no CogVideoX, and takes VAEs of its own width alone (no small Flux.2 decoder).
"""
LACKS = "\n## What was skipped, and why\n\n"


def sampled(items, cases):
    """(kept, left out): of each test function the first `cases` cases and no more; its parameters are near to far."""
    seen, kept, left = Counter(), [], []
    for item in items:
        name = item.nodeid.partition("[")[0]
        seen[name] += 1
        (kept if seen[name] <= cases else left).append(item)
    return kept, left


def version(folder):
    return re.search(r'__version__ = "(.+?)"', (folder / "comfyui_version.py").read_text("utf-8"))[1]


def record(stats, host, what, again=False):
    """Adds what a run found on a host, and writes the page anew. `stats`: of pytest's terminal reporter.

    `again`: it was of the last run's failures alone, on mended code, and completes that run's row.
    """
    known = json.loads(RECORD.read_text("utf-8")) if RECORD.exists() else {}
    before = known.get(version(host), {}) if again else {}
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in stats.get("skipped", []))
    known[version(host)] = {
        "run": what,
        "passed": len(stats.get("passed", [])) + before.get("passed", 0),
        "failed": len(stats.get("failed", [])) + len(stats.get("error", [])),
        "skipped": dict(sorted((reasons + Counter(before.get("skipped", {}))).items())),
    }
    RECORD.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", "utf-8")
    PAGE.write_text(page(known), "utf-8")


def page(known):
    """Markdown, the newest first."""
    order = sorted(known, key=lambda name: [int(part) for part in name.split(".")], reverse=True)
    rows = [(name, known[name], sum(known[name]["skipped"].values())) for name in order]
    table = [
        f"| {name} | {found['run']} | {found['passed']} | {found['failed']} | {skipped} |\n"
        for name, found, skipped in rows
    ]
    why = [f"- {name}: {reason} ({count})\n" for name, found, _ in rows for reason, count in found["skipped"].items()]
    return "".join([HEAD, *table, DIFFERENCES, *([LACKS, *why] if why else []), FOOT])
