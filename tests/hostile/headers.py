"""Safetensors files whose header lies, swells, or is none."""

from __future__ import annotations

import json

from .case import Case, content, empty, entry, header, tensors

ONE = entry()
TEXT = json.dumps(ONE)
LONG = "k" * 200_000
KEYS = {
    "a newline": "a\nb",
    "an escape": "a\x1b[31mb",
    "from right to left": "a\u202eb",
    "a NUL": "a\0b",
    "200,000 letters": LONG,
    "no letter": "",
    "half a surrogate": "a\ud800b",
    "a tab and a bell": "\t\a",
    "dots": "." * 1000,
    "an object's attribute": "__class__.__init__",
    "a path": "../../etc/passwd",
}
ENTRIES = {
    "overlapping offsets": {"a": entry(end=8, shape=(2,)), "b": entry(start=4, end=8)},
    "two tensors in one place": {"a": ONE, "b": ONE},
    "a hole": {"a": ONE, "b": entry(start=8, end=12)},
    "an end before its start": {"a": entry(start=4, end=0)},
    "an end outside": {"a": entry(end=400, shape=(100,))},
    "a vast end": {"a": entry(end=1 << 62, shape=(1 << 60,))},
    "an end of 2^64": {"a": entry(end=1 << 64, shape=(1 << 62,))},
    "a negative start": {"a": entry(start=-4, end=0)},
    "a fraction as an offset": {"a": {**ONE, "data_offsets": [0, 4.5]}},
    "a text as an offset": {"a": {**ONE, "data_offsets": ["0", "4"]}},
    "three offsets": {"a": {**ONE, "data_offsets": [0, 2, 4]}},
    "no offsets": {"a": {"dtype": "F32", "shape": [1]}},
    "no type": {"a": {"shape": [1], "data_offsets": [0, 4]}},
    "no shape": {"a": {"dtype": "F32", "data_offsets": [0, 4]}},
    "a shape of another size": {"a": entry(shape=(7,))},
    "a negative size": {"a": entry(shape=(-1,))},
    "a shape that overflows": {"a": entry(shape=(1 << 40, 1 << 40), end=0)},
    "an axis of 2^63": {"a": entry(shape=(1 << 63,), end=0)},
    "nothing of 2^60 rows": {"a": entry(shape=(1 << 60, 0), end=0)},
    "sixty thousand axes": {"a": entry(shape=(1,) * 60_000)},
    "a shape that is a text": {"a": {**ONE, "shape": "1"}},
    "a shape of lists": {"a": {**ONE, "shape": [[1]]}},
    "a list as an entry": {"a": [1, 2]},
    "a null as an entry": {"a": None},
    "a text as an entry": {"a": "F32"},
    "an unknown type": {"a": entry("F13")},
    "a type that is a number": {"a": entry(7)},
    "four bits a number": {"a": entry("F4", (8,))},
    "complex numbers": {"a": entry("C64", (1,), end=8)},
    "exponents alone": {"a": entry("F8_E8M0", (4,))},
    "a field too many": {"a": {**ONE, "code": "import os"}},
    "metadata that is a list": {"__metadata__": ["a"], "a": ONE},
    "metadata that is no text": {"__metadata__": {"a": 7}, "a": ONE},
    "metadata of objects": {"__metadata__": {"a": {"b": "c"}}, "a": ONE},
    "a tensor called metadata": {"__metadata__": ONE},
}
TEXTS = {
    "no JSON": "{nonsense",
    "JSON that ends early": '{"a": {"dtype": "F32"',
    "one object": "{}",
    "a list": "{" * 1 + "[]" + "}",
    "JSON of NaN": '{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 4]}}',
    "JSON with a comment": '{/* */"a": 1}',
    "a key twice": f'{{"a": {TEXT}, "a": {TEXT}}}',
    "metadata twice": '{"__metadata__": {"config": "1"}, "__metadata__": {"config": "2"}, "a": ' + TEXT + "}",
    "100,000 brackets": '{"a": ' + "[" * 100_000,
    "900 brackets in metadata": '{"__metadata__": {"a": ' + "[" * 900 + "]" * 900 + "}}",
    "20,000 brackets that close": '{"a": ' + "[" * 20_000 + "]" * 20_000 + "}",
    "a number of 100,000 digits": '{"a": ' + "9" * 100_000 + "}",
    "a megabyte of empty lists": '{"a": [' + "[]," * 350_000 + "0]}",
    "fifty thousand tensors": json.dumps({str(k): entry(shape=(0,), end=0) for k in range(22_000)}),
}


def cases() -> list[Case]:
    found = [Case(f"key {name}", content(tensors({key: ONE}))) for name, key in KEYS.items()]
    found += [Case(name, content(tensors(entries))) for name, entries in ENTRIES.items()]
    found += [Case(f"header {name}", content(header(text, bytes(4)))) for name, text in TEXTS.items()]
    lengths = {"2^63": 1 << 63, "2^64 - 1": (1 << 64) - 1, "a gigabyte": 1 << 30, "the file and more": 1000, "0": 0}
    found += [Case(f"header of {name}", content(header("{}", b"", length))) for name, length in lengths.items()]
    found += [Case(f"only {size} bytes", content(header('{"a":')[:size])) for size in (0, 1, 7, 8, 9, 12)]
    found += [
        Case("header that is no UTF-8", content(header(b'{"a\xff\xfe": 1}'))),
        Case("header in UTF-16", content(header('{"a": 1}'.encode("utf-16-le")))),
        Case("header of ten megabytes", content(lambda: header('{"a": "' + "x" * (10 << 20) + '"}'))),
        Case("header of spaces", content(lambda: header("{" + " " * (10 << 20) + "}"))),
        Case("header and garbage", content(header(json.dumps({"a": ONE}) + "garbage", bytes(4)))),
        Case("more numbers than tensors", content(tensors({"a": ONE}, bytes(4000)))),
        Case("fewer numbers than tensors", content(tensors({"a": entry(end=4000, shape=(1000,))}, bytes(40)))),
        Case("infinity", content(tensors({"a": ONE}, b"\0\0\x80\x7f"))),
        Case("NaN", content(tensors({"a": ONE}, b"\0\0\xc0\x7f"))),
        Case("nothing at all", content(empty(a=(0,)))),
    ]
    return found
