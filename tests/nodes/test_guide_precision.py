"""What guides get in half precision, and where: the model's backward, float32 on demand, bounds in bytes."""

from types import SimpleNamespace

import pytest
import torch
from guided_sampling import applied, guide_of, picture, sample, text_guide

pytestmark = pytest.mark.host


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def denoiser(dtype):
    """A small network, and its prediction with a graph."""
    from pack.nodes.host.guides.through import with_graph

    network = torch.nn.Sequential(torch.nn.Linear(24, 48), torch.nn.SiLU(), torch.nn.Linear(48, 24))
    for index, parameter in enumerate(network.parameters()):
        parameter.data.copy_(rand(*parameter.shape, seed=index) / parameter.shape[-1] ** 0.5)
    network = network.to(dtype).requires_grad_(False)
    guider = SimpleNamespace(inner_model=network, conds={})

    def execute(x, options):
        return x - network(x.to(dtype)).float()

    x = rand(3, 24, seed=9)
    return with_graph(guider, execute, x.double() if dtype == torch.float64 else x, {})


@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 5e-3), (torch.bfloat16, 4e-2), (torch.float32, 1e-5)])
@pytest.mark.parametrize("size", [1e-30, 1e-6, 1.0, 1e7, 1e30])
def test_the_pull_back_is_as_exact_for_gradients_of_every_size(comfy, dtype, tolerance, size):
    """Samples of very different sizes stand side by side."""
    _, pull_back = denoiser(dtype)
    _, exact = denoiser(torch.float64)
    v = rand(3, 24, seed=4) * torch.tensor([1.0, 1e-3, 1e3])[:, None]
    found, wanted = pull_back(v * size) / size, exact(v)
    error = (found - wanted).norm(dim=1) / wanted.norm(dim=1)
    assert error.max() < tolerance


def test_a_gradient_of_zero_is_pulled_back_to_zero(comfy):
    _, pull_back = denoiser(torch.float16)
    v = rand(3, 24)
    v[1] = 0
    assert torch.equal(pull_back(v)[1], torch.zeros(24)) and torch.isfinite(pull_back(v)).all()


LOADERS = {
    "Guidance_LoadModel": "scenes_unet.safetensors",
    "Guidance_LoadDiffusionAutoencoder": "scenes_diffae.safetensors",
}


@pytest.mark.parametrize("node", LOADERS)
@pytest.mark.parametrize("host_choice", [torch.float16, torch.bfloat16, torch.float32])
def test_precision_float32_is_float32_whatever_the_host_chooses(execute, monkeypatch, node, host_choice):
    import comfy.model_management as mm

    monkeypatch.setattr(mm, "unet_dtype", lambda *args, **kwargs: host_choice)
    for precision, wanted in (("auto", host_choice), ("float32", torch.float32)):
        model = execute(node, model_name=LOADERS[node], precision=precision)[0]
        assert {p.dtype for p in model.model.diffusion_model.network.parameters()} == {wanted}
        load, given = model.cached_patcher_init[:2]
        again = load(*given, disable_dynamic=True)  # as the host copies a model
        assert {p.dtype for p in again.model.diffusion_model.network.parameters()} == {wanted}


def test_precision_float32_is_the_same_to_the_bit_where_the_host_chooses_float32(execute, models):
    (exact, _) = execute("Guidance_LoadModel", model_name="scenes_unet.safetensors", precision="float32")
    assert torch.equal(sample(execute, exact), sample(execute, models["scenes_unet"][0]))


def test_precision_float32_is_without_tf32_in_its_runs_guides_included_and_nowhere_else(execute, encoder, monkeypatch):
    """TF32 has as many bits as half precision, and a GPU's convolutions use it unless they are told not to."""
    flags = []

    def now():
        return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32

    before = now()
    assert before[0]
    for precision in ("float32", "auto"):
        model, _ = execute("Guidance_LoadModel", model_name="scenes_unet.safetensors", precision=precision)
        guides = text_guide(execute, encoder)
        original = guides[0].compare
        object.__setattr__(guides[0], "compare", lambda *a, f=original: flags.append(now()) or f(*a))
        sample(execute, applied(execute, model, guides), steps=1)
        assert now() == before
    assert flags == [(False, False), before]

    def broken(*_):
        raise RuntimeError("a guide broke")

    model, _ = execute("Guidance_LoadModel", model_name="scenes_unet.safetensors", precision="float32")
    object.__setattr__(guides[0], "compare", broken)
    with pytest.raises(RuntimeError, match="a guide broke"):
        sample(execute, applied(execute, model, guides), steps=1)
    assert now() == before


def test_sums_are_in_float64_on_the_cpu_alone():
    """Apple's GPUs have none and the others are slow in it; the meta device stands for a GPU."""
    from pack.guidance.tensors import widest

    assert widest(torch.ones(1)).dtype == torch.float64
    assert widest(torch.ones(1, dtype=torch.float16, device="meta")).dtype == torch.float32


def measured(count, calls):
    return lambda: calls.append(count) or [torch.zeros(count)]


def test_references_never_take_more_than_their_bytes_and_the_least_recently_used_goes_first():
    from pack.nodes.host.guides.references import References

    known, calls = References(limit=40), []
    for key in ("a", "b"):
        known.get(key, measured(4, calls))
    known.get("a", measured(4, calls))  # now b is the oldest
    known.get("c", measured(4, calls))
    assert known.size <= 40 and list(known.known) == ["a", "c"] and len(calls) == 3
    known.get("b", measured(4, calls))
    assert list(known.known) == ["c", "b"] and len(calls) == 4


def test_a_measurement_beyond_the_bytes_is_made_each_time_and_not_kept():
    from pack.nodes.host.guides.references import References

    known, calls = References(limit=40), []
    for _ in range(2):
        assert len(known.get("large", measured(100, calls))[0]) == 100
    assert calls == [100, 100] and known.size == 0


@pytest.mark.parametrize("guide", ["content", "structure self-similarity", "style"])
def test_guides_do_the_same_without_room_for_references(execute, encoder, models, guide):
    model, _ = models["scenes_unet"]
    images = []
    for limit in (2**30, 0):
        encoder.references.known.clear()
        encoder.references.limit = limit
        steered = applied(execute, model, guide_of(execute, encoder, guide), gradient="at denoised")
        images.append(sample(execute, steered, steps=3, batch=1))
        assert encoder.references.size <= limit and bool(encoder.references.known) == bool(limit)
    encoder.references.limit = 2**30
    assert torch.equal(*images)


def test_references_of_a_gigabyte_are_what_an_encoder_keeps_at_most(encoder):
    from pack.nodes.host.guides.references import BYTES

    assert encoder.references.limit == BYTES == 2**30 and picture().numel() < BYTES
