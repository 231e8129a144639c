"""HSpace Edit on the host of COMFYUI_PATH, in this process: `python tests/hspace_on_host.py OUT.safetensors`.

Narrow U-Nets of SD1.5's and SDXL's proportions, their weights drawn from a seed; runs of euler with CFG, plain and with
an edit in their first half. Beside the latents: how often each half of the U-Net ran.
`nodes/test_hspace_hosts.py` compares what hosts write.
"""

import json
import sys
from functools import partial

import golden_files
import host_unets
import torch
from conftest import run_node
from safetensors.torch import save_file

from bench.guided_step import load_pack

STEPS, CFG, WINDOW = 4, 3.0, (0.0, 0.5)
SHAPE, STRENGTH = (2, 4, 16, 16), 2.0
UNETS = {"SD1.5": (host_unets.sd15, 32, 128), "SDXL": (host_unets.sdxl, 64, 256)}  # width, channels of the bottleneck
EDITS = ("plain", "asymmetric", "symmetric")


def counted(network):
    """How often each half ran; it goes on counting."""
    calls = {"encoder": 0, "decoder": 0}

    def count(half, *_):
        calls[half] += 1

    for half, blocks in (("encoder", network.input_blocks), ("decoder", network.output_blocks)):
        blocks[1][0].register_forward_hook(partial(count, half))
    return calls


def runs(execute, name):
    """(name, latents, calls) of each run."""
    build, width, channels = UNETS[name]
    model, conditions = build(width)
    network = golden_files.fill(model.model.diffusion_model, f"{name}.")
    calls = counted(network)
    noise = host_unets.random(*SHAPE, seed=1)
    direction = STRENGTH * host_unets.random(1, channels, 1, 1, seed=2)
    for kind in EDITS:
        chosen = model
        if kind != "plain":
            options = {"window": WINDOW, "asymmetric": kind == "asymmetric"}
            chosen = host_unets.edited(execute, model, direction, **options)
        calls.update(encoder=0, decoder=0)
        yield f"{name} {kind}", host_unets.euler(chosen, noise, conditions, CFG, steps=STEPS), dict(calls)


def main(path):
    torch.set_num_threads(1)
    execute = partial(run_node, load_pack())
    found = [run for name in UNETS for run in runs(execute, name)]
    calls = json.dumps({name: counts for name, _, counts in found})
    save_file({name: latents.contiguous() for name, latents, _ in found}, path, {"calls": calls})


if __name__ == "__main__":
    main(sys.argv[1])
