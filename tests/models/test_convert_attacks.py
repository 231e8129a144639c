"""`dev.py convert` and the nodes' reader: the weights of a file that asks for code come out or not; nothing runs."""

import contextlib
import pickle
import sys

import pytest
from hostile.pickles import ATTACKS, EVIL, PLACES, shell
from pickles_by_hand import SYSTEM, archive, call, dictionary, storage, tensor, text
from safetensors import safe_open

from pack.models.convert import convert
from pack.models.state_dict import CheckpointError, read


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """A file that exists once an attack has run; modules that the attacks ask for can be imported."""
    target = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(EVIL.format(ran=str(target)))
    (tmp_path / "evil_on_import.py").write_text(EVIL.format(ran=str(target)) + "\nrun()\nanything = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield target
    for name in ("evil", "evil_on_import"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_attack_is_real(attack, ran):
    with contextlib.suppress(Exception):  # after it ran
        pickle.loads(b"\x80\x04" + ATTACKS[attack](ran) + b".")
    assert ran.exists()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("attack", ATTACKS)
def test_the_weights_come_out_and_nothing_runs(attack, place, ran, tmp_path):
    modules = set(sys.modules)
    path = archive(tmp_path / "model.ckpt", PLACES[place](ATTACKS[attack](ran)))
    try:
        convert(path, tmp_path / "out.safetensors")
        state, _ = read(tmp_path / "out.safetensors")
        assert state["w"].tolist() == [[1, 2], [3, 4]]
    finally:
        assert not ran.exists()
        assert not {"evil", "evil_on_import"} & (set(sys.modules) - modules)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("attack", ATTACKS)
def test_the_nodes_reader_refuses_it_and_nothing_runs(attack, place, ran, tmp_path):
    path = archive(tmp_path / "model.ckpt", PLACES[place](ATTACKS[attack](ran)))
    with pytest.raises(CheckpointError, match=r"^model\.ckpt holds a pickle.*Convert Guidance File .* runs nothing$"):
        read(path)
    assert not ran.exists()
    assert not {"evil", "evil_on_import"} & set(sys.modules)


def test_an_archive_within_the_numbers_stays_numbers(ran, tmp_path):
    inner = archive(tmp_path / "inner.pt", call(SYSTEM, text(shell(ran)))).read_bytes()
    inner += bytes(-len(inner) % 4)
    count = len(inner) // 4
    body = dictionary(w=tensor(storage(numel=count), size=(count,), stride=(1,)))
    convert(archive(tmp_path / "model.pt", body, inner), tmp_path / "out.safetensors")
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert file.get_tensor("w").numpy().tobytes() == inner
    assert not ran.exists()
