"""`dev.py convert` and the nodes' reader: the weights of a file that asks for code come out or not; nothing runs."""

import contextlib
import pickle
import sys

import pytest
from pickles_by_hand import SYSTEM, archive, binary, call, dictionary, new, several, storage, tensor, text, wanted
from safetensors import safe_open

from pack.models.convert import convert
from pack.models.state_dict import CheckpointError, read


def shell(ran):
    return f'echo > "{ran}"'


def opened(ran):
    return f"open({str(ran)!r}, 'w').close()"


def script(ran):
    """Arguments for subprocess."""
    return b"](" + text(sys.executable) + text("-c") + text(opened(ran)) + b"e"


RUNS = wanted("evil", "Runs")
QUIET = call(wanted("evil", "Quiet"))  # made in silence; everything that is done to it runs


def build_setstate(ran):
    """An object gets `__setstate__` by BUILD, and the second BUILD calls it."""
    plain = call(wanted("types", "SimpleNamespace"))
    return plain + dictionary(__setstate__=SYSTEM) + b"b" + text(shell(ran)) + b"b"


def getattr_chain(ran):
    found = call(wanted("builtins", "__import__"), text("os"))
    return call(call(wanted("builtins", "getattr"), found, text("system")), text(shell(ran)))


def dotted(ran):
    """STACK_GLOBAL, which follows dots through a module's attributes."""
    return call(text("os") + text("path.genericpath.os.system") + b"\x93", text(shell(ran)))


def reconstructor(ran):
    return call(wanted("copyreg", "_reconstructor"), RUNS, RUNS, b"N")


def method(ran):
    return call(call(wanted("operator", "methodcaller"), text("now")), QUIET)


def inner_archive(ran):
    """A PyTorch file within the pickle, for PyTorch's own loader of bytes."""
    inner = archive(ran.parent / "inner.pt", call(SYSTEM, text(shell(ran)))).read_bytes()
    return call(wanted("torch.storage", "_load_from_bytes"), binary(inner))


def inner_pickle(ran):
    return call(wanted("pickle", "loads"), binary(b"\x80\x04" + call(SYSTEM, text(shell(ran))) + b"."))


def rebuilder(ran):
    """PyTorch's own, which calls what it is given."""
    rebuild = wanted("torch._tensor", "_rebuild_from_type_v2")
    return call(rebuild, SYSTEM, wanted("torch", "Tensor"), several(text(shell(ran))), b"}")


ATTACKS = {
    "os.system by REDUCE": lambda ran: call(SYSTEM, text(shell(ran))),
    "subprocess by REDUCE": lambda ran: call(wanted("subprocess", "check_call"), script(ran)),
    "builtins.eval by GLOBAL": lambda ran: call(wanted("builtins", "eval"), text(opened(ran))),
    "builtins.exec by GLOBAL": lambda ran: call(wanted("builtins", "exec"), text(opened(ran))),
    "the old name of builtins": lambda ran: b"\x80\x02" + call(wanted("__builtin__", "eval"), text(opened(ran))),
    "INST": lambda ran: b"(" + text(shell(ran)) + b"ios\nsystem\n",
    "OBJ": lambda ran: b"(" + RUNS + b"No",
    "import alone": lambda ran: wanted("evil_on_import", "anything"),
    "NEWOBJ": lambda ran: new(RUNS),
    "NEWOBJ_EX": lambda ran: RUNS + b")}\x92",
    "BUILD of a class with __setstate__": lambda ran: QUIET + b"}b",
    "BUILD that makes a __setstate__": build_setstate,
    "APPEND": lambda ran: QUIET + b"Na",
    "ADDITEMS": lambda ran: QUIET + b"(N\x90",
    "SETITEM": lambda ran: QUIET + text("key") + b"Ns",
    "a hash": lambda ran: b"}" + QUIET + b"Ns",
    "getattr chain": getattr_chain,
    "STACK_GLOBAL with dots": dotted,
    "copyreg._reconstructor": reconstructor,
    "operator.methodcaller": method,
    "nested archive": inner_archive,
    "nested pickle": inner_pickle,
    "PyTorch's own rebuilder": rebuilder,
}
PLACES = {
    "beside": lambda evil: dictionary(state_dict=dictionary(w=tensor()), callbacks=evil),
    "among the weights": lambda evil: dictionary(state_dict=dictionary(w=tensor(), v=evil)),
    "before them": lambda evil: evil + b"0" + dictionary(w=tensor()),
    "in a tensor's hooks": lambda evil: dictionary(w=tensor(hooks=evil)),
    "as a key": lambda evil: b"}(" + evil + b"N" + text("w") + tensor() + b"u",
}

EVIL = """
from pathlib import Path

def run(*_, **__):
    Path({ran!r}).touch()

class Runs:
    def __new__(cls, *_, **__):
        run()
        return object.__new__(cls)

class Quiet:
    __setstate__ = append = add = extend = __setitem__ = now = run

    def __hash__(self):
        run()
        return 0
"""


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
    with pytest.raises(CheckpointError, match=r"^model\.ckpt holds a pickle.*dev\.py convert`$"):
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
