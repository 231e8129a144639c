"""`dev.py convert`: the weights of a file that asks for code come out, and nothing of the code runs."""

import argparse
import contextlib
import importlib.util
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict

import numpy
import pytest
import torch
from conftest import ROOT
from safetensors import safe_open
from safetensors.torch import save_file

from pack.models import registry
from pack.models.convert import convert, main
from pack.models.diffae.network import DiffAEConfig, DiffusionAutoencoder, LatentConfig
from pack.models.state_dict import CheckpointError, read

CONFIG = DiffAEConfig(
    model_channels=32,
    out_channels=3,
    num_res_blocks=1,
    channel_mult=(1, 2),
    attention=(2,),
    semantic=64,
    encoder_mult=(1, 2, 2),
    encoder_res_blocks=1,
    latent=LatentConfig(128, 4),
)


# --- pickles by hand


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value):
    return b"\x8a\x0a" + value.to_bytes(10, "little", signed=True)


def binary(value):
    return b"B" + struct.pack("<I", len(value)) + value


def wanted(module, name):
    return f"c{module}\n{name}\n".encode()


def several(*values):
    return b"(" + b"".join(values) + b"t"


def call(callee, *arguments):
    return callee + several(*arguments) + b"R"


def new(callee, *arguments):
    return callee + several(*arguments) + b"\x81"


def dictionary(**values):
    return b"}(" + b"".join(text(key) + value for key, value in values.items()) + b"u"


FLOATS = wanted("torch", "FloatStorage")
NO_HOOKS = call(wanted("collections", "OrderedDict"))


def storage(kind=FLOATS, key="0", numel=4):
    return several(text("storage"), kind, text(key), text("cpu"), number(numel)) + b"Q"


FOUR = storage()


def tensor(storage=FOUR, offset=0, size=(2, 2), stride=(2, 1), hooks=NO_HOOKS):
    shape = [several(*map(number, part)) for part in (size, stride)]
    return call(wanted("torch._utils", "_rebuild_tensor_v2"), storage, number(offset), *shape, b"\x89", hooks)


NUMBERS = struct.pack("<4f", 1, 2, 3, 4)


def archive(path, body, numbers=NUMBERS, method=zipfile.ZIP_STORED, **more):
    """A file as `torch.save` lays it out, around a pickle by hand."""
    entries = {"data.pkl": b"\x80\x02" + body + b".", "version": b"3\n", "byteorder": b"little", "data/0": numbers}
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in {**entries, **more}.items():
            file.writestr(f"archive/{name}", content)
    return path


# --- pickles that run code when they are loaded by pickle itself


def shell(ran):
    return f'echo > "{ran}"'


def opened(ran):
    return f"open({str(ran)!r}, 'w').close()"


def script(ran):
    """Arguments for subprocess."""
    return b"](" + text(sys.executable) + text("-c") + text(opened(ran)) + b"e"


SYSTEM = wanted("os", "system")
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


# --- files that lie

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


@pytest.mark.parametrize("lie", LIES)
def test_a_file_that_lies_is_refused_in_one_sentence(lie, tmp_path):
    path = archive(tmp_path / "model.ckpt", dictionary(state_dict=dictionary(w=LIES[lie])))
    target = tmp_path / "out.safetensors"
    for reader in (read, lambda path: convert(path, target)):
        with pytest.raises(
            CheckpointError, match=r"^model\.ckpt (is damaged or was tampered|is a damaged|holds a)"
        ) as error:
            reader(path)
        assert "\n" not in str(error.value)
    assert not target.exists() and not target.with_name("out.safetensors.part").exists()


def doubling(times=80):
    """A tuple of two of a tuple of two ...: 2^80 leaves in a few hundred bytes."""
    return b")q\x00" + b"".join(b"h" + bytes([k]) + b"\x86q" + bytes([k + 1]) for k in range(times))


BOMBS = {
    "a list within itself": b"]q\x00h\x00a",
    "a dictionary that wraps itself": b"}q\x00" + text("state_dict") + b"h\x00s",
    "doubling tuples": doubling(),
    "doubling tuples as the state dict": dictionary(state_dict=doubling()),
    "deep lists": b"]" * 300_000 + b"a" * 299_999,
    "deep tuples": b")" + b"\x85" * 300_000,
    "deep marks": b"(" * 300_000 + b"t" * 300_000,
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_does_not_go_off(bomb, tmp_path):
    path = archive(tmp_path / "model.ckpt", BOMBS[bomb])
    for reader in (read, lambda path: convert(path, tmp_path / "out.safetensors")):
        with pytest.raises(CheckpointError, match=r"^model\.ckpt .*holds no"):
            reader(path)


@pytest.mark.parametrize("key", [doubling(), b")" + b"\x85" * 300_000], ids=["doubling", "deep"])
def test_a_bomb_as_a_key_is_never_hashed(key, tmp_path):
    path = archive(tmp_path / "model.ckpt", dictionary(w=tensor()) + key + b"Ns")
    convert(path, tmp_path / "out.safetensors")
    assert read(tmp_path / "out.safetensors")[0]["w"].tolist() == [[1, 2], [3, 4]]


def test_many_tensors_of_one_storage_are_no_way_to_a_vast_file(tmp_path):
    many = {f"w{k}": tensor(storage(numel=1 << 16), size=(1 << 16,), stride=(1,)) for k in range(40)}
    path = archive(tmp_path / "model.ckpt", dictionary(**many), bytes(4 << 16))
    for reader in (read, lambda path: convert(path, tmp_path / "out.safetensors")):
        with pytest.raises(CheckpointError, match="its weights are larger than the file"):
            reader(path)


def test_packed_entries_are_refused(tmp_path):
    path = archive(tmp_path / "model.ckpt", dictionary(w=tensor()), bytes(16), zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="packed or encrypted"):
        convert(path, tmp_path / "out.safetensors")


def test_a_vast_pickle_is_refused_before_it_is_read(tmp_path):
    path = archive(tmp_path / "model.ckpt", b"N0" * (9 << 20) + dictionary(w=tensor()))
    with pytest.raises(CheckpointError, match="its pickle is too large"):
        convert(path, tmp_path / "out.safetensors")


# --- Lightning


class Stranger(types.ModuleType):
    """A module that is there when a file is written and gone when it is read."""


@pytest.fixture
def lightning(tmp_path):
    """A checkpoint as Lightning writes it, and its network with the averaged weights."""
    torch.manual_seed(0)
    network, average = DiffusionAutoencoder(CONFIG), DiffusionAutoencoder(CONFIG)
    package, module = Stranger("pytorch_lightning"), Stranger("pytorch_lightning.callbacks")
    for name in ("ModelCheckpoint", "Config"):
        setattr(module, name, type(name, (), {"__module__": module.__name__}))
    config = module.Config()
    config.net_ch, config.child = 32, module.Config()
    weights = OrderedDict()
    for prefix, part in (("model.", network), ("ema_model.", average)):
        weights |= {prefix + key: value for key, value in part.state_dict(keep_vars=True).items()}
    weights |= {
        "x_T": torch.randn(4, 3, 32, 32),
        "conds_mean": torch.randn(1, 64),
        "conds_std": torch.rand(1, 64) + 0.5,
    }
    content = {
        "epoch": 3,
        "global_step": numpy.int64(1200),
        "pytorch-lightning_version": "1.4.5",
        "state_dict": weights,
        "callbacks": {module.ModelCheckpoint: {"best_model_score": torch.ones(()), "current": numpy.float32(1.5)}},
        "optimizer_states": [{"state": {0: {"step": 7, "exp_avg": torch.zeros(5, 5)}}, "param_groups": [{"lr": 1e-4}]}],
        "lr_schedulers": [],
        "hyper_parameters": argparse.Namespace(conf=config, betas=(0.9, 0.999), names={"a", "b"}),
    }
    path = tmp_path / "last.ckpt"
    sys.modules |= {"pytorch_lightning": package, "pytorch_lightning.callbacks": module}
    try:
        torch.save(content, path)
    finally:
        del sys.modules["pytorch_lightning"], sys.modules["pytorch_lightning.callbacks"]
    return path, average, content


def test_a_lightning_checkpoint_becomes_a_diffusion_autoencoder(lightning, tmp_path, capsys):
    path, average, content = lightning
    with pytest.raises(CheckpointError, match=r"last\.ckpt holds a pickle that would run code.*dev\.py convert"):
        registry.load_checkpoint(path, "model")
    main([str(path)])
    said = capsys.readouterr().out
    checkpoint = registry.load_checkpoint(tmp_path / "last.safetensors", "model")
    assert checkpoint.architecture.id == "diffae" and checkpoint.config == CONFIG
    expected = average.state_dict()
    assert checkpoint.state.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in checkpoint.state.items())
    for key in ("x_T", "conds_mean", "conds_std"):
        assert torch.equal(checkpoint.beside[key], content["state_dict"][key])
        assert f"{key} (1)" in said
    assert f"{len(expected) + 3} tensors" in said
    assert "left out: model. (ema_model. is the average), epoch, global_step" in said and "callbacks" in said
    assert not any(name.startswith("pytorch_lightning") for name in sys.modules)


def test_statistics_beside_the_state_dict_are_kept(tmp_path):
    body = dictionary(
        state_dict=dictionary(w=tensor()), conds_mean=tensor(), epoch=tensor(), callbacks=new(wanted("a", "B"))
    )
    said = convert(archive(tmp_path / "model.ckpt", body), tmp_path / "out.safetensors")
    assert set(read(tmp_path / "out.safetensors")[0]) == {"w", "conds_mean"}
    assert "left out: epoch, callbacks" in said


# --- what is kept

KINDS = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")


def test_every_kind_of_tensor_comes_out_as_pytorch_reads_it(tmp_path):
    base = torch.arange(24).reshape(2, 3, 4)
    state = {kind: base.to(getattr(torch, kind)) for kind in KINDS}
    state |= {"transposed": torch.randn(3, 5).T, "cut": torch.randn(10)[3:8:2], "row": torch.randn(4, 3)[1]}
    state |= {"last": torch.randn(2, 4, 3, 3).to(memory_format=torch.channels_last), "scalar": torch.tensor(3.0)}
    state |= {
        "empty": torch.zeros(0, 5),
        "repeated": torch.ones(1).expand(3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    state["tied"] = state["transposed"]
    torch.save(state, tmp_path / "model.pt")
    convert(tmp_path / "model.pt", tmp_path / "out.safetensors")
    found, metadata = read(tmp_path / "out.safetensors")
    assert sorted(found) == sorted(state)
    for key, value in state.items():
        assert found[key].dtype == value.dtype and torch.equal(found[key], value), key
    assert metadata == {"format": "pt", "converted_from": "model.pt"}


@pytest.mark.parametrize("wrapper", ["state_dict", "ema", "model"])
def test_a_wrapped_state_dict_is_unwrapped_as_by_the_reader(wrapper, tmp_path):
    inside = {"w": torch.ones(3)}
    torch.save({"epoch": 1, "params": {"w": torch.zeros(3)}, wrapper: inside}, tmp_path / "model.pt")
    convert(tmp_path / "model.pt", tmp_path / "out.safetensors")
    assert read(tmp_path / "out.safetensors")[0].keys() == {"w"}
    assert torch.equal(read(tmp_path / "out.safetensors")[0]["w"], read(tmp_path / "model.pt")[0]["w"])


def test_nothing_is_overwritten(tmp_path):
    torch.save({"w": torch.ones(3)}, tmp_path / "model.pt")
    for name in ("out.safetensors", "other.safetensors.part"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(CheckpointError, match=f"{name} exists already"):
            convert(tmp_path / "model.pt", tmp_path / name.removesuffix(".part"))
        assert (tmp_path / name).read_text() == "mine"


def test_names_out_of_a_file_can_not_command_the_terminal(tmp_path):
    torch.save({"\x1b[2Jw": torch.ones(3), "state_dict": {"\x1b[31mred.w": torch.ones(3)}}, tmp_path / "model.pt")
    assert "\x1b" not in convert(tmp_path / "model.pt", tmp_path / "out.safetensors")


# --- files of other kinds, and what the command says


def said_of(path, capsys):
    with pytest.raises(SystemExit) as error:
        main([str(path), str(path.parent / "out.safetensors")])
    message = str(error.value)
    assert message.startswith("convert: ") and "\n" not in message and not capsys.readouterr().out
    assert not (path.parent / "out.safetensors").exists()
    return message


@pytest.mark.parametrize("share", [0.999, 0.5, 0.01])
def test_truncated_files_are_refused(share, lightning, capsys):
    path, *_ = lightning
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert "last.ckpt is a damaged or truncated PyTorch file" in said_of(path, capsys)


def test_a_flipped_bit_in_the_weights_is_found(tmp_path, capsys):
    path = archive(tmp_path / "model.ckpt", dictionary(w=tensor()))
    path.write_bytes(path.read_bytes().replace(NUMBERS, struct.pack("<4f", 1, 2, 3, -4)))
    assert "model.ckpt is a damaged or truncated PyTorch file (Bad CRC-32" in said_of(path, capsys)


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("text.ckpt", b"hello, this is text", "is no PyTorch file"),
        ("picture.ckpt", b"\x89PNG\r\n\x1a\n" + bytes(50), "is no PyTorch file"),
        ("empty.ckpt", b"", "is no PyTorch file"),
        ("end.ckpt", b"PK\x03\x04" + bytes(100), "damaged or truncated"),
    ],
)
def test_other_files_are_named(name, content, said, tmp_path, capsys):
    (tmp_path / name).write_bytes(content)
    assert f"{name} {said}" in said_of(tmp_path / name, capsys).replace("is a damaged", "damaged")


def test_renamed_and_old_files_are_named(tmp_path, capsys):
    state = {"w": torch.ones(3)}
    save_file(state, tmp_path / "renamed.ckpt")
    torch.save(state, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    (tmp_path / "bare.pkl").write_bytes(pickle.dumps([1]))
    archive(tmp_path / "program.pt", dictionary(w=tensor()), **{"constants.pkl": b""})
    assert "renamed.ckpt is a safetensors file already" in said_of(tmp_path / "renamed.ckpt", capsys)
    assert "old.ckpt is a bare pickle or a PyTorch file of before version 1.6" in said_of(tmp_path / "old.ckpt", capsys)
    assert "bare.pkl is a bare pickle" in said_of(tmp_path / "bare.pkl", capsys)
    assert "program.pt is a TorchScript program" in said_of(tmp_path / "program.pt", capsys)
    assert "nowhere.ckpt can't be read: No such file" in said_of(tmp_path / "nowhere.ckpt", capsys)


def test_a_zip_of_something_else_is_named(tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as file:
        file.writestr("readme.txt", "nothing")
    assert "other.pt is damaged or was tampered with: it is no archive of PyTorch" in said_of(
        tmp_path / "other.pt", capsys
    )


def test_a_damaged_table_of_contents_is_named_by_both_readers(tmp_path, capsys):
    path = tmp_path / "model.pt"
    torch.save({"w": torch.ones(3)}, path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"PK\x01\x02", b"PK\x01\x07"))
    assert "model.pt is a damaged or truncated" in said_of(path, capsys)
    with pytest.raises(CheckpointError, match=r"model\.pt is a damaged or truncated"):
        read(path)


def test_a_file_without_weights_says_what_it_holds(tmp_path, capsys):
    torch.save({"epoch": 3, "state_dict": {"names": ["a"]}}, tmp_path / "model.pt")
    assert "model.pt holds no weights by name; its keys are 'names'" in said_of(tmp_path / "model.pt", capsys)


def test_dev_py_hands_on_whole_paths(monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("dev", ROOT / "dev.py")
    dev = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(dev)
    monkeypatch.chdir(tmp_path)
    seen = []
    monkeypatch.setattr(dev, "module", lambda *arguments: seen.append(arguments) or 0)
    assert dev.main(["convert", "last.ckpt", "../out.safetensors"]) == 0
    assert seen == [("models.convert", str(tmp_path / "last.ckpt"), f"{tmp_path}/../out.safetensors")]
