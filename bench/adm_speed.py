"""`python dev.py bench adm_speed --published FOLDER`: our ADM forward against the published network's own code.

FOLDER is a checkout of openai/guided-diffusion; it stays outside this repository. Both networks get the same weights
(in the layout of `ffhq_10m.pt`, 93.6 M parameters) and the same input, one picture of 64 x 64, on one thread. The
published code runs as its scripts run it: eval mode, no_grad.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.adm.network import UNet, UNetConfig

from .host_server import PACK
from .pairs import ratio

CONFIG = UNetConfig(
    model_channels=128,
    out_channels=6,
    num_res_blocks=1,
    channel_mult=(1, 1, 2, 2, 4, 4),
    attention=(16,),
    head_channels=64,
)


def published_network(folder: Path) -> nn.Module:
    sys.path.insert(0, str(folder))
    unet: Any = importlib.import_module("guided_diffusion.unet")
    return unet.UNetModel(
        image_size=256,
        in_channels=3,
        model_channels=128,
        out_channels=6,
        num_res_blocks=1,
        attention_resolutions=(16,),
        channel_mult=CONFIG.channel_mult,
        num_head_channels=64,
        use_scale_shift_norm=True,
        resblock_updown=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench adm_speed")
    parser.add_argument("--published", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=20)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    theirs = published_network(given.published).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.03)
    ours = UNet(CONFIG).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x, t = torch.randn(1, 3, 64, 64), torch.tensor([500])
    with torch.no_grad():
        a, b = theirs(x, t), ours(x, t)
        error = ((a - b).abs().max() / a.abs().max()).item()
        found = ratio(lambda: ours(x, t), lambda: theirs(x, t), given.pairs)
    result = {"speed_of_ours_over_published": found, "relative_difference_of_outputs": error}
    (PACK / "bench" / "results" / "adm_speed.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
