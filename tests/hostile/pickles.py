"""Pickles that run code where something unpickles them, that lie about their tensors, and that swell."""

import sys

from pickles_by_hand import (
    FLOATS,
    NO_HOOKS,
    SYSTEM,
    archive,
    binary,
    call,
    dictionary,
    new,
    several,
    storage,
    tensor,
    text,
    wanted,
)


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


LIES = {
    "a storage of a type that is a callable": tensor(storage(SYSTEM)),
    "a storage of an unknown type": tensor(storage(wanted("torch", "QUInt8Storage"))),
    "a storage whose type is no name": tensor(storage(text("torch.FloatStorage"))),
    "a storage that is not in the archive": tensor(storage(key="7")),
    "a storage outside the folder of storages": tensor(storage(key="../data.pkl")),
    "a storage smaller than the pickle says": tensor(storage(numel=400), size=(400,), stride=(1,)),
    "a storage larger than the pickle says": tensor(storage(numel=3)),
    "a storage of less than nothing": tensor(storage(numel=-4)),
    "a storage without a number": several(text("storage"), FLOATS, text("0"), text("cpu"), text("4")) + b"Q",
    "another kind of persistent id": several(text("module"), SYSTEM, *map(text, "abc")) + b"Q",
    "a persistent id that is a text": text("storage") + b"Q",
    "a persistent id of the oldest protocol": b"Pstorage\n",
    "an offset outside": tensor(offset=3),
    "a vast offset": tensor(offset=1 << 60),
    "a negative offset": tensor(offset=-1),
    "a stride outside": tensor(stride=(1 << 20, 1)),
    "a negative stride": tensor(stride=(-2, 1)),
    "a negative size": tensor(size=(-2, 2)),
    "a size that is a text": tensor(size=(), stride=()).replace(several() + several(), text("no") + several()),
    "sizes and strides that differ in number": tensor(size=(2,), stride=(2, 1)),
    "four numbers that claim to be 2^40": tensor(size=(1 << 20, 1 << 20), stride=(0, 0)),
    "a tensor of something else": tensor(NO_HOOKS),
    "an extension code": b"\x82\x01",
    "a buffer outside the pickle": b"\x97",
    "more taken than there is": b"ttttt",
    "a memo that is empty": b"h\x63",
}


def doubling(times=80):
    """A tuple of two of a tuple of two ...: 2^80 leaves in a few hundred bytes."""
    return b")q\x00" + b"".join(b"h" + bytes([k]) + b"\x86q" + bytes([k + 1]) for k in range(times))


BOMBS = {
    "a list within itself": b"]q\x00h\x00a",
    "a dictionary that wraps itself": b"}q\x00" + text("state_dict") + b"h\x00s",
    "doubling tuples": doubling(),
    "doubling tuples as the state dict": dictionary(state_dict=doubling()),
    "deep lists": b"]" * 190_000 + b"a" * 189_999,
    "deep tuples": b")" + b"\x85" * 300_000,
    "deep marks": b"(" * 190_000 + b"t" * 190_000,
}
