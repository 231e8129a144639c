"""What guides leave behind: nothing that grows, whatever pictures they look at."""

import gc
from pathlib import Path

import pytest
import torch
from guided_sampling import applied, sample

pytestmark = pytest.mark.host
RUNS, WARM = 200, 20


def resident():
    """Bytes of this process in main memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def guides_of(execute, encoder, seed):
    """A style and a structure guide of a picture that no run before has seen, and a text guide."""
    image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(seed))
    given = {"encoder": encoder, "start_percent": 0.0, "end_percent": 1.0}
    kinds = {"Style": {"image": image}, "Structure": {"image": image}, "Text": {"text": "a red star"}}
    return [execute(f"Guidance_{kind}Guide", **given, **more)[0][0] for kind, more in kinds.items()]


def run(execute, models, encoder, seed):
    model, vae = models["scenes_latent"]
    steered = applied(execute, model, guides_of(execute, encoder, seed), vae, gradient="at denoised")
    samples = sample(execute, steered, steps=3, batch=1)
    execute("Guidance_GuideReport", model=steered, samples={"samples": samples})


@pytest.mark.slow
def test_200_runs_with_changing_references_need_no_more_memory_than_20(execute, encoder, models):
    sizes = []
    for seed in range(RUNS):
        run(execute, models, encoder, seed)
        gc.collect()
        sizes.append(resident())
    assert max(sizes[WARM:]) <= 1.02 * max(sizes[:WARM])


def test_a_reference_is_forgotten_when_eight_runs_had_no_use_for_it(execute, encoder, models):
    from pack.nodes.host.guides.references import RUNS

    encoder.references.known.clear()
    sizes = []
    for seed in range(RUNS + 3):
        run(execute, models, encoder, seed)
        sizes.append(encoder.references.size)
    assert sizes[0] < sizes[RUNS - 1] and sizes[RUNS] == sizes[-1]


def test_a_run_leaves_no_tensor_of_its_steps(execute, encoder, models):
    """Its report are numbers; views, grids and directions went with its state."""
    run(execute, models, encoder, 0)
    gc.collect()
    before = {id(found) for found in gc.get_objects() if isinstance(found, torch.Tensor)}
    run(execute, models, encoder, 0)
    gc.collect()
    left = [found for found in gc.get_objects() if isinstance(found, torch.Tensor) and id(found) not in before]
    assert sum(tensor.numel() for tensor in left) < 10_000
