"""Pickles made opcode by opcode, and files laid out around them as `torch.save` does."""

import struct
import zipfile


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


SYSTEM = wanted("os", "system")
