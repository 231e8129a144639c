"""PyTorch files, and files of other kinds: code, lies, bombs, cuts, and names that are no files."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import tarfile
import tempfile
import zipfile

import numpy
import torch
from pickles_by_hand import SYSTEM, archive, dictionary, storage, tensor, text
from safetensors.torch import save

from .case import CONVERT, MODEL, RESUME, Case, content, header
from .claims import own
from .pickles import ATTACKS, BOMBS, LIES, PLACES, opened

MAGIC = (0x1950A86A20F9469CFC6C, 1001)


KEYS, NUMBERS = b"](" + text("0") + b"e", struct.pack("<q4f", 4, 1, 2, 3, 4)


def legacy(body, keys=KEYS, numbers=NUMBERS):
    """A file of before version 1.6 around a pickle by hand."""
    stop = b"\x80\x02%s."
    parts = [pickle.dumps(number, 2) for number in MAGIC] + [pickle.dumps({"little_endian": True}, 2)]
    return b"".join([*parts, stop % body, stop % keys, numbers])


def whole(path):
    torch.save(own(MODEL)[0], path)
    return path.read_bytes()


def cut(share, old=False):
    def write(path):
        torch.save(own(MODEL)[0], path, _use_new_zipfile_serialization=not old)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])

    return write


def flipped(share):
    """One bit of the file is another: in the numbers, the pickle or the table of contents."""

    def write(path):
        data = bytearray(whole(path))
        data[int(len(data) * share)] ^= 0x40
        path.write_bytes(data)

    return write


def packed(size, method=zipfile.ZIP_DEFLATED, name="data/0"):
    def write(path):
        numbers = {} if name != "data/0" else {"numbers": bytes(size)}
        body = dictionary(w=tensor(storage(numel=size // 4), size=(size // 4,), stride=(1,)))
        more = {name: bytes(size)} if name != "data/0" else {}
        archive(path, body, method=method, **numbers, **more)

    return write


def zipped(entries, method=zipfile.ZIP_STORED):
    def write(path):
        with zipfile.ZipFile(path, "w", method) as file:
            for name, data in entries:
                file.writestr(name, data)

    return write


def nested(path):
    """Zip files within zip files, ten deep."""
    data = b"end"
    for _ in range(10):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            file.writestr("archive/data.pkl", data)
        data = buffer.getvalue()
    path.write_bytes(data)


def directory(count):
    """A table of contents of so many names that all stand for one place."""

    def write(path):
        archive(path, dictionary(w=tensor()))
        data = path.read_bytes()
        start = data.index(b"PK\x01\x02")
        one = data[start : data.index(b"PK\x01\x02", start + 4)]
        table = one * count
        path.write_bytes(
            data[:start] + table + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0, 0, len(table), start, 0)
        )

    return write


def program(path):
    class Twice(torch.nn.Module):
        def forward(self, x):
            return 2 * x

    torch.jit.script(Twice()).save(str(path))


def with_attack(place, attack, ran):
    return lambda path: archive(path, PLACES[place](ATTACKS[attack](ran)))


def saved(value):
    return lambda path: torch.save(value, path)


def tarred(path):
    with tarfile.open(path, "w") as file:
        for name in ("storages", "tensors", "pickle"):
            info = tarfile.TarInfo(name)
            info.size = 4
            file.addfile(info, io.BytesIO(b"\x80\x02N."))


def array(path):
    buffer = io.BytesIO()
    numpy.savez(buffer, a=numpy.ones(3), b=numpy.array([{"a": 1}], dtype=object))
    path.write_bytes(buffer.getvalue())


class Unknown:
    """A class of whoever wrote the file."""


KINDS = {
    "npy": lambda path: path.write_bytes(b"\x93NUMPY\x01\0v\0{'descr': '|O'}" + bytes(50)),
    "npz": array,
    "GGUF": content(b"GGUF\x03\0\0\0" + bytes(100)),
    "ONNX": content(b"\x08\x07\x12\x07pytorch" + bytes(100)),
    "HDF5": content(b"\x89HDF\r\n\x1a\n" + bytes(100)),
    "a picture": content(b"\x89PNG\r\n\x1a\n" + bytes(100)),
    "a pointer of Git LFS": content(b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64),
    "a page": content(b"<!DOCTYPE html><html><body>404</body></html>"),
    "a script": content(b"#!/usr/bin/env python3\nimport os\nos.system('id')\n"),
    "a program": content(b"\x7fELF\x02\x01\x01" + bytes(100)),
    "gzip": content(lambda: gzip.compress(bytes(1 << 20))),
    "tar": tarred,
    "7z": content(b"7z\xbc\xaf\x27\x1c" + bytes(100)),
    "text": content(b"hello " * 50),
    "TorchScript": program,
    "a bare pickle": content(lambda: pickle.dumps({"w": 1})),
    "a pickle of code": content(b"\x80\x02" + SYSTEM + b"."),
    "zeros": content(bytes(5000)),
    "a zip of nothing": zipped([]),
    "a zip of text": zipped([("readme.txt", "nothing")]),
    "zips in zips": nested,
}
ARCHIVES = {
    "packed, 256 MB in 250 kB": packed(256 << 20),
    "packed pickle of 64 MB": packed(64 << 20, name="data.pkl.txt"),
    "packed by bzip2": packed(1 << 20, zipfile.ZIP_BZIP2),
    "packed by lzma": packed(1 << 20, zipfile.ZIP_LZMA),
    "two pickles": zipped([("a/data.pkl", b"\x80\x02}."), ("b/data.pkl", b"\x80\x02}.")]),
    "names out of the folder": zipped([("../../data.pkl", b"\x80\x02}."), ("/etc/data.pkl", b"\x80\x02}.")]),
    "big-endian": zipped([("a/data.pkl", b"\x80\x02}."), ("a/byteorder", b"big")]),
    "a byteorder of a megabyte": zipped([("a/data.pkl", b"\x80\x02}."), ("a/byteorder", bytes(1 << 20))]),
    "an empty pickle": zipped([("a/data.pkl", b"")]),
    "a pickle of one opcode": zipped([("a/data.pkl", b".")]),
    "a pickle of 10 MB": zipped([("a/data.pkl", b"\x80\x02" + b"N0" * (5 << 20) + b"}.")]),
    "a pickle of 20 million nothings": lambda path: archive(path, b"](" + b"N" * (20 << 20) + b"e"),
    "a pickle of 3 million lists": zipped([("a/data.pkl", b"\x80\x02" + b"]" * (3 << 20) + b".")]),
    "a text of 3 MB": zipped([("a/data.pkl", b"\x80\x02" + text("x" * (3 << 20)) + b".")]),
    "a number of a megabyte": zipped(
        [("a/data.pkl", b"\x80\x02\x8b" + struct.pack("<i", 1 << 20) + bytes(1 << 20) + b".")]
    ),
    "a number of a million digits": zipped([("a/data.pkl", b"\x80\x02L" + b"9" * (1 << 20) + b"L\n.")]),
    "30,000 entries": directory(30_000),
    "a million entries": directory(1_000_000),
}
ALIVE = {
    "a list": [1, 2],
    "a number": 7,
    "nothing": {},
    "a tensor alone": torch.ones(3),
    "texts by name": {"a": "b"},
    "a wrapper of itself": {"state_dict": {"state_dict": {"state_dict": {}}}},
    "a sparse tensor": {"w": torch.eye(3).to_sparse()},
    "a meta tensor": {"w": torch.empty(1 << 30, device="meta")},
    "complex numbers": {"w": torch.ones(3, dtype=torch.complex64)},
    "NaN": {"w": torch.tensor([float("nan")])},
    "expanded to a million": {"w": torch.ones(1).expand(1 << 20)},
    "a class": {"w": torch.ones(1), "config": Unknown},
    "a numpy array": {"w": numpy.ones(3)},
    "keys that are numbers": {1: torch.ones(1), 2: torch.ones(1)},
    "keys of tuples": {(1, 2): torch.ones(1)},
    "a key of 200,000 letters": {"k" * 200_000: torch.ones(1)},
    "keys that command a terminal": {"\x1b[2J\n\u202e": torch.ones(1)},
    "a network": torch.nn.Linear(2, 2),
    "a quantised tensor": {"w": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)},
    "a nested tensor": {"w": torch.nested.nested_tensor([torch.ones(1), torch.ones(2)])},
    "a parameter with hooks": {"w": torch.nn.Parameter(torch.ones(2))},
    "a wrapper of numbers": {"state_dict": {"epoch": 3}},
}


def odd_names(secret) -> list[Case]:
    """What lies in the folder and is no file of weights, or no file at all."""
    return [
        Case("a pipe", os.mkfifo, CONVERT),  # the host's list has no pipes
        Case("a folder", lambda path: path.mkdir()),
        Case("a link to nothing", lambda path: path.symlink_to("nowhere")),
        Case("a link to itself", lambda path: path.symlink_to(path.name)),
        Case("a link to a device", lambda path: path.symlink_to("/dev/zero")),
        Case("a link to a folder", lambda path: path.symlink_to(tempfile.mkdtemp())),
        Case("a link out of the folder", lambda path: path.symlink_to(secret)),
        Case("a link to the processor", lambda path: path.symlink_to("/proc/cpuinfo")),
        Case("a file that may not be read", lambda path: (path.write_bytes(b"{"), path.chmod(0))),
    ]


VIEWS = ("../../etc/passwd", "/etc/passwd", "", ".", "..", "a\0b", "n" * 5000, "nowhere.safetensors", "a\\b", "\n")
PROGRESS = (
    '{"step": -1, "seconds": 0, "earlier_images": 0}',
    '{"step": "a", "seconds": 0, "earlier_images": 0}',
    '{"step": 1e99, "seconds": 0, "earlier_images": 0}',
    '{"step": 1, "seconds": NaN, "earlier_images": 0}',
    '{"step": 1, "seconds": -5, "earlier_images": 0}',
    '{"step": 1, "seconds": 1' + "0" * 400 + ', "earlier_images": 0}',
    '{"step": true, "seconds": 0, "earlier_images": 0}',
    '{"step": 1, "seconds": 0}',
    "[1, 2]",
    "7",
    "null",
    "nonsense",
    "[" * 990,
)


def run(progress='{"step": 0, "seconds": 0, "earlier_images": 0}', number=lambda value: value, **slots):
    """The state of a run of one layer, as training writes it, with other slots of its optimiser, or other numbers."""
    weights = {"weight": torch.ones(2, 2), "bias": torch.ones(2)}
    state = {f"{part}/{key}": number(value) for part in ("network", "ema") for key, value in weights.items()}
    for index, weight in enumerate(weights.values()):
        usual = {"step": torch.ones(()), "exp_avg": weight, "exp_avg_sq": weight}
        state |= {f"optimizer/{index}/{slot}": value for slot, value in (slots or usual).items()}
    return content(save({key: value.clone() for key, value in state.items()}, {"progress": progress}))


SLOTS = {
    "evil": {"evil": torch.ones(())},
    "a step alone": {"step": torch.ones(())},
    "a mean of one number": {"step": torch.ones(()), "exp_avg": torch.ones(()), "exp_avg_sq": torch.ones(())},
    "a momentum": {"momentum_buffer": torch.ones(())},
}


def resumes() -> list[Case]:
    one = torch.ones(2)
    names = ("network/weight", "network", "ema/weight", "optimizer/0/exp_avg", "optimizer/x/y", "/", "a/b/c/d", "")
    found = [
        Case(f"resume: a part {name!r}", content(save({name: one}, {"progress": PROGRESS[0]})), RESUME)
        for name in names
    ]
    found += [Case(f"resume: optimiser with {name}", run(**slots), RESUME) for name, slots in SLOTS.items()]
    found += [Case(f"resume: a whole run, {text[:40]}", run(text), RESUME) for text in PROGRESS]
    found.append(Case("resume: a run of whole numbers", run(number=lambda value: value.to(torch.int8)), RESUME))
    found += [
        Case(f"resume: progress {text[:40]}", content(save({"network/a": one}, {"progress": text})), RESUME)
        for text in PROGRESS
    ]
    found += [
        Case(f"resume: training {text[:40]}", content(save({"a": one}, {"training": text})), RESUME)
        for text in PROGRESS
    ]
    return found


def control() -> Case:
    return Case("control: a run", run(), RESUME, (RESUME,))


def cases(ran, secret) -> list[Case]:
    found = [Case(f"kind: {name}", write) for name, write in KINDS.items()]
    found += [Case(f"archive: {name}", write) for name, write in ARCHIVES.items()]
    taken = {"expanded to a million"}
    found += [Case(f"content: {n}", saved(v), taken=() if n in taken else (CONVERT,)) for n, v in ALIVE.items()]
    for attack in ATTACKS:
        for place in ("among the weights", "in a tensor's hooks"):
            found.append(Case(f"code: {attack}, {place}", with_attack(place, attack, ran), taken=(CONVERT,)))
    for attack in (
        "os.system by REDUCE",
        "INST",
        "OBJ",
        "BUILD that makes a __setstate__",
        "NEWOBJ_EX",
        "import alone",
    ):
        body = dictionary(w=ATTACKS[attack](ran))
        found.append(Case(f"old code: {attack}", content(legacy(body))))
    found += [Case(f"lie: {n}", lambda path, lie=lie: archive(path, dictionary(w=lie))) for n, lie in LIES.items()]
    found += [Case(f"old lie: {n}", content(legacy(dictionary(w=lie)))) for n, lie in list(LIES.items())[:8]]
    found += [Case(f"bomb: {n}", lambda path, b=b: archive(path, b)) for n, b in BOMBS.items()]
    found += [Case(f"cut to {share}", cut(share)) for share in (0.999, 0.9, 0.5, 0.1, 0.01)]
    found += [Case(f"old, cut to {share}", cut(share, old=True)) for share in (0.999, 0.5, 0.01)]
    found += [Case(f"a bit flipped at {share}", flipped(share)) for share in (0.5, 0.995)]
    found += [Case(f"view: {name[:20]!r}", content(save({}, {"weights_in": name}))) for name in VIEWS]
    found.append(Case("code in the numbers", content(header("{}", opened(ran).encode()))))
    found.append(
        Case("a link's target as metadata", content(save({"a": torch.ones(1)}, {"architecture": str(secret)})))
    )
    return found + odd_names(secret) + resumes()
