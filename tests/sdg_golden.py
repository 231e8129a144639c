"""The four guides of SDG on the golden network; as a script, how far they are from the published numbers, as JSON.

The gradient passes forty ReLUs, some within rounding of their kink: two correct float32 programs differ by 7e-3 of the
largest value (oneDNN against PyTorch's own convolutions, on one machine). The numbers were printed with AVX2 kernels
on two threads; told to use those, the script prints the same bits where the processor has just these. A newer one can
do them another way: the feature maps then differ in their last bits ("maps"), and the gradient by some kinks.
"""

import json
import os
import sys

import golden_files

from pack.guidance.clip_energy import cosine
from pack.guidance.structure_energy import difference
from pack.guidance.style_energy import grams, squared
from pack.models.clip_noisy.network import STAGES, ClipNoisy, ClipNoisyConfig

STYLE_CONSTANT = 1e10  # inside the published loss
KERNELS = {"DNNL_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "2"}
GUIDES = ("content", "text", "structure", "style")


def load():
    """Numbers and network."""
    arguments, numbers = golden_files.load("sdg_rn50x16_256")
    return numbers, golden_files.fill(ClipNoisy(ClipNoisyConfig()), arguments["salt"])


def energies(numbers, network):
    """Our energies by guide: the published functions F are their negatives."""
    t = numbers["t"]
    reference = network.maps(numbers["reference"], t, STAGES)
    style = grams(reference)
    return {
        "content": lambda x: cosine(network.embed(x, t), network.embed(numbers["reference"], t)),
        "text": lambda x: cosine(network.embed(x, t), numbers["text_embedding"]),
        "structure": lambda x: difference(network.maps(x, t, STAGES), reference),
        "style": lambda x: STYLE_CONSTANT * squared(grams(network.maps(x, t, STAGES)), style),
    }


def errors():
    """Relative errors of value, gradient and its norm, by guide, and that of the deepest feature map under "maps"."""
    import torch

    numbers, network = load()
    deepest = network.maps(numbers["x"], numbers["t"], STAGES[-1:])[0].mean((2, 3))
    found = {"maps": golden_files.relative_error(deepest.detach(), numbers["features.4.mean"])}
    for guide, energy in energies(numbers, network).items():
        x = numbers["x"].clone().requires_grad_(True)
        value = energy(x)
        (grad,) = torch.autograd.grad(value.sum(), x)
        found[guide] = {
            "value": golden_files.relative_error(-value.detach(), numbers[f"{guide}.value"]),
            "grad": golden_files.relative_error(-grad[:, :, ::8, ::8], numbers[f"{guide}.grad"]),
            "grad_norm": golden_files.relative_error(grad.norm()[None], numbers[f"{guide}.grad_norm"]),
        }
    return found


if __name__ == "__main__":
    assert os.environ["ATEN_CPU_CAPABILITY"] == "avx2"
    json.dump(errors(), sys.stdout)
