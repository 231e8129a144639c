"""On a GPU a step is one CUDA graph. No GPU is needed here: `graph_on_cpu` captures and replays on a CPU."""

import argparse
import importlib
import math
from contextlib import nullcontext

import graph_on_cpu
import pytest
import torch
from graph_on_cpu import CaptureError, Graph, NoNewTables, Watch
from training_tasks import BATCH, TASKS

from models.diffae.network import SemanticCodec
from training import average, graph, latent_prior, loop, pictures, processes, scenes, step
from training.semantic_start import CONFIG


@pytest.fixture
def events(monkeypatch):
    """Steps are captured, on the CPU; what is asked of torch.cuda."""
    found = []
    for name, value in vars(graph_on_cpu.cuda(found)).items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(step, "captures", lambda device: True)
    monkeypatch.setattr(graph, "WARM_UP", 1)
    allow_capturable(monkeypatch)
    return found


def allow_capturable(monkeypatch):
    """AdamW's capturable form refuses tensors that no GPU has."""
    adam = importlib.import_module("torch.optim.adam")
    monkeypatch.setattr(adam, "_get_capturable_supported_devices", lambda supports_xla=True: ["cpu", "meta"])


def one_by_one(run, optimizer, generator):
    """In place of Graphed: kernel by kernel, every time."""
    return run


def graphs(events):
    return [event for event in events if isinstance(event, Graph)]


def trained(name, path, images=4 * BATCH, **given):
    """After some steps of different rates and shares of the moving average."""
    torch.manual_seed(0)
    task = TASKS[name]("cpu")
    recipe = loop.Recipe(images=images, batch=BATCH, warmup=2, weight_decay=task.weight_decay)
    run = loop.Run(task.network, recipe, "cpu", {})
    usual = {"out": path, "resume": None, "compile": False, "minutes": math.inf, "commit": "test"}
    loop.train(run, task.loss, argparse.Namespace(**{**usual, **given}))
    return run


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], value) for key, value in second.items())


@pytest.mark.parametrize("name", TASKS)
def test_replays_are_steps(name, events, tmp_path, monkeypatch):
    """Rate, share, batch, random numbers, balance and curriculum go on although Python runs no more."""
    replayed = trained(name, tmp_path / "a.safetensors")
    assert [g.replays for g in graphs(events)] == [3]
    monkeypatch.setattr(step, "Graphed", one_by_one)
    plain = trained(name, tmp_path / "b.safetensors")
    assert same(replayed.network.state_dict(), plain.network.state_dict()) and same(replayed.ema, plain.ema)


def test_a_killed_run_of_graphs_goes_on(events, tmp_path, monkeypatch):
    def whole(path):
        trained("classifier", path, images=2 * BATCH)
        return trained("classifier", path, images=4 * BATCH, resume=path.with_suffix(".resume.safetensors"))

    replayed = whole(tmp_path / "a.safetensors")
    assert replayed.step == 4 and len(graphs(events)) == 2
    monkeypatch.setattr(step, "Graphed", one_by_one)
    plain = whole(tmp_path / "b.safetensors")
    assert same(replayed.network.state_dict(), plain.network.state_dict()) and same(replayed.ema, plain.ema)


class OnMeta(torch.Generator):
    device = torch.device("meta")


def on_meta(task, batch, monkeypatch):
    """A step of a network on a device without numbers: whoever asks for one is told no."""
    allow_capturable(monkeypatch)
    monkeypatch.setattr(step, "captures", lambda device: True)
    monkeypatch.setattr(step, "Graphed", one_by_one)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # there is none for this device
    generator, network = OnMeta(), task.network
    optimizer = torch.optim.AdamW(network.parameters(), capturable=True, foreach=True)
    optimizer.param_groups[0]["lr"] = torch.ones((), device="meta")

    def loss(batch):
        return task.loss(network, batch, generator)

    return step.Step(network, optimizer, average.start(network), loss, generator, 1.0), Watch("meta", [generator])


def scenes_on_meta():
    whole = scenes.render(scenes.draw(BATCH, torch.Generator().manual_seed(0)))
    attributes = scenes.Attributes(**{key: value.to("meta") for key, value in vars(whole.attributes).items()})
    return scenes.Scenes(whole.image.to("meta"), whole.mask.to("meta"), attributes)


@pytest.mark.parametrize("name", TASKS)
def test_a_step_neither_waits_for_the_gpu_nor_takes_numbers_from_the_host(name, monkeypatch):
    batch = scenes_on_meta()
    once, watch = on_meta(TASKS[name]("meta"), batch, monkeypatch)
    once.take(batch)
    with watch, NoNewTables():
        once.run()
    assert len(watch.kernels) > 500


class Faulty:
    """One small network, and a loss with a fault."""

    def __init__(self, fault, device):
        self.fault = fault
        with torch.device(device):
            self.network = torch.nn.Conv2d(3, 1, 1)

    def loss(self, network, batch, generator):
        value = self.fault(network(batch.image), batch)
        return value.square().mean(), {}


FAULTS = {
    "waits": lambda x, batch: x * float(x.detach().mean()),
    "for the number of rows": lambda x, batch: x[batch.image[:, :1] > 0],
    "numbers of the host": lambda x, batch: x * torch.tensor([1.0], device=x.device),
    "tensors on": lambda x, batch: x * torch.ones(2).to(x.device),
    "generator": lambda x, batch: x * torch.randn_like(x),
}


@pytest.mark.parametrize("reason", FAULTS)
def test_the_watch_sees_what_a_capture_would_refuse(reason, monkeypatch):
    batch = pictures.Batch(torch.zeros(2, 3, 4, 4, device="meta"))
    once, watch = on_meta(Faulty(FAULTS[reason], "meta"), batch, monkeypatch)
    once.take(batch)
    with watch, NoNewTables(), pytest.raises(CaptureError, match=reason):
        once.run()


def small_step(device="cpu", loss=None):
    torch.manual_seed(0)
    network, generator = torch.nn.Conv2d(3, 1, 1), torch.Generator().manual_seed(0)
    faulty = loss or (lambda batch: (network(batch.image).square().mean(), {"mean": batch.image.mean()}))
    return step.Step(network, step.adamw(network, device), average.start(network), faulty, generator)


def batch_of(value, count=2):
    return pictures.Batch(torch.full((count, 3, 4, 4), value))


def test_a_step_reads_its_own_copy_of_the_batch_alone(events):
    results = []
    for poison in (False, True):
        once = small_step()
        for value in (1.0, 2.0, 3.0):
            batch = batch_of(value)
            once.take(batch)
            if poison:
                batch.image.fill_(math.nan)
            once(once.batch, 1e-3, 0.5)
        results.append(once)
    assert same(results[0].averaged, results[1].averaged)
    assert all(value.isfinite().all() for value in results[1].averaged.values())


def test_a_number_of_the_host_stays_as_captured(events):
    """The test above can fail: a loss that counts in Python is frozen."""
    counts = iter(range(100))
    once = small_step(
        loss=lambda batch: (once.network(batch.image).mean(), {"count": batch.image.mean() * 0 + next(counts)})
    )
    for _ in range(10):
        once(batch_of(1.0), 0.0, 0.5)
    assert next(counts) == 2  # the warm-up took 0, the capture 1
    assert once.report["count"].item() == pytest.approx(1 - 0.99**9)


def test_warm_up_runs_beside_the_hosts_stream_and_the_capture_follows_on_the_same(events, monkeypatch):
    monkeypatch.setattr(graph, "WARM_UP", 3)
    once = small_step()
    for _ in range(6):
        once(batch_of(1.0), 1e-3, 0.5)
    warm = [("side", "waits for", "host's"), ("runs on", "side"), ("host's", "waits for", "side")]
    (captured,) = graphs(events)
    assert events == [*warm * 3, captured, ("captured on", "side")]
    assert captured.replays == 3


def test_between_replays_the_host_only_hands_over_batch_rate_and_share(events):
    once = small_step()
    for _ in range(3):
        once(batch_of(1.0), 1e-3, 0.5)
    graphs(events)[0].calls.clear()
    batch, kernels = batch_of(2.0), Watch("cpu", [])
    with kernels:
        once(batch, 2e-3, 0.25)
    assert kernels.kernels == ["aten.copy_.default", "aten.fill_.Scalar", "aten.fill_.Scalar"]


def test_another_precision_is_captured_anew(events, monkeypatch):
    seen = []

    def loss(batch):
        value = once.network(batch.image)
        seen.append(value.dtype)
        return value.float().square().mean(), {}

    once = small_step(loss=loss)
    for bf16 in (True, True, True, False, False, False):
        once(batch_of(1.0), 1e-3, 0.5, bf16)
    assert seen == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]
    assert [g.replays for g in graphs(events)] == [2, 2]


def test_a_gpu_computes_the_first_two_thirds_in_bf16(tmp_path, monkeypatch):
    used = []
    monkeypatch.setattr(loop, "captures", lambda device: True)
    monkeypatch.setattr(step.Step, "__call__", lambda self, batch, rate, share, bf16=False: used.append((bf16, rate)))
    run = loop.Run(torch.nn.Conv2d(3, 1, 1), loop.Recipe(images=24, batch=2, warmup=1), "cpu", {})
    loop.train(
        run,
        lambda *_: None,
        argparse.Namespace(out=tmp_path / "a.safetensors", resume=None, compile=False, minutes=math.inf, commit="test"),
    )
    assert [bf16 for bf16, _ in used] == [True] * 8 + [False] * 4
    assert used[-1][1] == pytest.approx(run.recipe.learning_rate / 6)  # of 12 steps, 6 fall to 0


@pytest.mark.parametrize("fault", [{"lr": 1e-3, "capturable": True}, {"lr": torch.tensor(1e-3), "capturable": False}])
def test_an_optimiser_that_a_graph_would_freeze_is_refused(fault, events):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], **fault)
    with pytest.raises(ValueError, match="capturable=True"):
        graph.Graphed(lambda: None, optimizer, torch.Generator())


def test_a_batch_of_another_size_is_refused():
    once = small_step()
    once(batch_of(1.0), 1e-3, 0.5)
    with pytest.raises(ValueError, match="size of the first"):
        once(batch_of(1.0, count=3), 1e-3, 0.5)


def test_a_gpu_shares_no_batch_among_processes(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="--device cpu"):
        processes.join("cuda")


def test_only_a_gpu_captures():
    assert graph.captures("cuda") and graph.captures("cuda:1") and not graph.captures("cpu")


def test_a_tensor_moves_the_average_as_far_as_a_number():
    torch.manual_seed(0)
    network = torch.nn.Conv2d(3, 8, 3)
    by_number = {key: torch.randn_like(value) for key, value in network.state_dict().items()}
    by_tensor = {key: value.clone() for key, value in by_number.items()}
    for share in (0.8, 0.3, 0.001):
        average.update(by_number, network, share)
        average.update(by_tensor, network, torch.tensor(share))
    for key, value in by_number.items():
        torch.testing.assert_close(by_tensor[key], value, rtol=0, atol=5e-7)


def test_pictures_for_a_gpu_are_picked_without_the_host(tmp_path, monkeypatch):
    stored = object.__new__(pictures.Pictures)
    stored.bytes = torch.zeros(5, 3, 8, 8, dtype=torch.uint8)
    generator = OnMeta()
    batches = stored.batches(4, generator)
    next(batches)
    with Watch("meta", [generator]), NoNewTables():
        assert next(batches).image.shape == (4, 3, 8, 8)


def test_steps_of_the_latent_prior_are_replays(events):
    torch.manual_seed(0)
    network = SemanticCodec(CONFIG).latent_net
    before = {key: value.clone() for key, value in network.state_dict().items()}
    latent_prior.train_prior(network, torch.randn(50, CONFIG.semantic), 0.01, "cpu")
    (captured,) = graphs(events)
    assert captured.replays > 1 and not same(before, network.state_dict())
