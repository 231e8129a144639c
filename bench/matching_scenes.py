"""`python dev.py bench matching_scenes`: what each term of a matcher learns from how many scenes.

For each budget `training.matching` trains one matcher on so many scenes and their twins, all for the same number of
pictures seen, and `bench.matching` asks it about the same unseen scenes. Writes `bench/results/matching_scenes.json`
after each, so a run resumes, and `matching_scenes.png`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib

from . import made_with
from .host_server import PACK
from .matching import ENCODER, galleries, loaded, tested

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

RESULT = PACK / "bench" / "results" / "matching_scenes.json"
SCENES, SEEN, PICTURES = (64, 256, 1024, 4096), 32_000, 500  # scenes; pictures seen in a training; asked about
STYLES = {"self attention": "C0o-", "cross attention": "C1s-", "both": "k^-", "the pack's CLIP": "C7--"}


def trained(scenes: int, seen: int) -> Any:
    """A matcher, from nothing."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "matcher.safetensors"
        given = ["--scenes", str(scenes), "--count", str(seen), "--device", "cpu", "--out", str(out)]
        subprocess.run([sys.executable, "-m", "training.matching", *given], cwd=PACK, check=True)
        return loaded(out, "matcher")


def draw(result: dict[str, Any], picture: Path) -> None:
    budgets = sorted(result["scenes"], key=int)
    tests = list(result["scenes"][budgets[0]])
    figure, axes = pyplot.subplots(1, len(tests), figsize=(3.4 * len(tests), 3.4), sharey=True, layout="constrained")
    for axis, test in zip(axes, tests, strict=True):
        for name, style in STYLES.items():
            values = [result["scenes"][budget][test][name]["recall@1"] for budget in budgets]
            axis.plot([int(budget) for budget in budgets], values, style, label=name)
        axis.set(title=test, xlabel="scenes trained on, with their twins", xscale="log", ylim=(0, 101))
        axis.grid(alpha=0.3)
    axes[0].set(ylabel="Recall@1 among 100, %")
    axes[0].legend(loc="lower right")
    figure.savefig(picture, dpi=110)
    made_with.record(picture, result["made_with"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench matching_scenes")
    parser.add_argument("--scenes", type=int, nargs="+", default=SCENES)
    given = parser.parse_args()
    encoder, files = loaded(made_with.DEMO / "encoders" / ENCODER, "encoder"), made_with.hashes([made_with.CLIP])
    result: dict[str, Any] = json.loads(RESULT.read_text("utf-8")) if RESULT.exists() else {}
    if result.get("made_with") != files:
        result = {"seen": SEEN, "pictures": PICTURES, "scenes": {}, "made_with": files}
    for scenes in given.scenes:
        if str(scenes) not in result["scenes"]:
            result["scenes"][str(scenes)] = tested(trained(scenes, SEEN), encoder, galleries(PICTURES))
            RESULT.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    draw(result, RESULT.with_suffix(".png"))


if __name__ == "__main__":
    main()
