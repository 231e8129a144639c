"""What a training run leaves in files comes back as it was."""

import pytest
import torch
from safetensors import safe_open

from pack.models.saving import replace_file
from pack.models.training_files import joined, load_optimizer, load_weights, optimizer_tensors, parted

OPTIMIZERS = {
    "SGD": torch.optim.SGD,
    "momentum": lambda parameters, lr: torch.optim.SGD(parameters, lr, momentum=0.9),
    "Adam": torch.optim.Adam,
}


def stepped(make, steps, weights, optimizer=None):
    """Weights after some steps; and the optimiser."""
    weights = torch.nn.Parameter(weights.detach().clone())
    fresh = make([weights], lr=0.1)
    if optimizer is not None:
        load_optimizer(fresh, optimizer)
    for _ in range(steps):
        fresh.zero_grad()
        (weights**3).sum().backward()
        fresh.step()
    return weights, fresh


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimiser_that_was_saved_goes_on_as_if_it_never_stopped(name, tmp_path):
    make, start = OPTIMIZERS[name], torch.tensor([1.0, -2.0])
    whole, _ = stepped(make, 5, start)
    half, optimizer = stepped(make, 3, start)
    path = tmp_path / "deeper" / "run.safetensors"
    replace_file(joined({"weights": {"w": half}, "optimizer": optimizer_tensors(optimizer)}), path, {"a": "b"})
    with safe_open(path, "pt") as file:
        parts = parted({key: file.get_tensor(key) for key in file.keys()})
        assert file.metadata() == {"a": "b"}
    rest, _ = stepped(make, 2, parts["weights"]["w"], parts.get("optimizer", {}))
    assert torch.equal(rest, whole)


SAVED = {"step": torch.ones(()), "exp_avg": torch.ones(2), "exp_avg_sq": torch.ones(2)}
FOREIGN = {
    "a slot less": {key: SAVED[key] for key in ("step", "exp_avg")},
    "a slot more": {**SAVED, "evil": torch.ones(2)},
    "another optimiser's": {"momentum_buffer": torch.ones(2)},
    "a mean of one number": {**SAVED, "exp_avg": torch.ones(())},
    "a step for each number": {**SAVED, "step": torch.ones(2)},
    "steps below 0": {**SAVED, "step": -torch.ones(())},
    "squares below 0": {**SAVED, "exp_avg_sq": -torch.ones(2)},
    "truth values": {**SAVED, "exp_avg": torch.ones(2) > 0},
}


@pytest.mark.parametrize("slots", FOREIGN.values(), ids=FOREIGN)
def test_the_state_of_another_optimiser_is_refused_before_a_step(slots):
    with pytest.raises(ValueError, match="the optimiser"):
        stepped(torch.optim.Adam, 1, torch.ones(2), {f"0/{slot}": value for slot, value in slots.items()})


def test_whole_numbers_are_no_weights():
    network = torch.nn.Linear(2, 2)
    load_weights(network, {key: value.half() for key, value in network.state_dict().items()})
    with pytest.raises(ValueError, match="it has weight as torch.int8"):
        load_weights(network, {key: value.to(torch.int8) for key, value in network.state_dict().items()})


def test_a_file_is_replaced_whole_and_leaves_nothing_beside(tmp_path):
    shared = torch.zeros(4)
    for value in (1.0, 2.0):
        replace_file({"a": shared + value, "b": shared[:2], "c": shared}, tmp_path / "run.safetensors", {})
    assert [path.name for path in tmp_path.iterdir()] == ["run.safetensors"]


def test_parts_come_back_by_name():
    parts = {"network": {"out.2.bias": torch.zeros(1)}, "optimizer": {"0/step": torch.ones(())}}
    assert parted(joined(parts)) == parts
