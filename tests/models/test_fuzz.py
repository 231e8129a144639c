"""Headers, configurations, facts and pickles with changes of every kind: read, or refused in a sentence.

`GUIDANCE_FUZZ=1` tries far more. They are the same each time: what one change of the code passes, another doesn't fail.
"""

import io
import json
import os
import pickle
import struct
import zipfile
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from hostile.case import MODEL
from hostile.claims import own
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from pack.models.convert import read_untrusted
from pack.models.registry import load_checkpoint
from pack.models.state_dict import CheckpointError, read

LONG = bool(os.environ.get("GUIDANCE_FUZZ"))
tried = settings(
    max_examples=400 if LONG else 60,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
NUMBERS = st.sampled_from((0, 1, -1, 7, 2**31, 2**63, 10**30, 0.5, 1e308, float("nan"), float("inf")))
PLAIN = st.one_of(st.none(), st.booleans(), NUMBERS, st.integers(), st.floats(), st.text(max_size=20))
JSON = st.recursive(
    PLAIN,
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=9), inner, max_size=4)),
    max_leaves=12,
)
SPOILT = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=3)  # (place, byte)


@cache
def network():
    """(header, numbers) of a small network of ours."""
    content = save(*own(MODEL))
    (length,) = struct.unpack("<Q", content[:8])
    return content[8 : 8 + length], content[8 + length :]


def paths(value, path=()):
    """To every value within."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield (*path, key)
        yield from paths(part, (*path, key))


@st.composite
def changed(draw, value):
    """With up to three values changed, taken away, doubled or moved to another name."""
    value = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(1, 3))):
        found = list(paths(value))
        if not found:
            break
        *way, last = draw(st.sampled_from(found))
        outer = value
        for key in way:
            outer = outer[key]
        kind = draw(st.sampled_from(("change", "drop", "double", "rename")))
        if kind == "drop":
            del outer[last]
        elif kind == "double":
            outer[last] = [outer[last]] * draw(st.integers(0, 40))
        elif kind == "rename" and isinstance(outer, dict):
            outer[draw(st.text(max_size=9))] = outer.pop(last)
        else:
            outer[last] = draw(JSON)
    return value


def spoilt(content, changes):
    content = bytearray(content)
    for place, byte in changes:
        content[int(place * len(content))] = byte
    return bytes(content)


def refused(content, reader, name="model.safetensors"):
    """What a reader says of a file, or what it made of it; nothing but a sentence may leave."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        try:
            return None, reader(path)
        except CheckpointError as error:
            said = str(error)
    assert said.startswith(f"{name} ") and said.isprintable() and len(said) <= 2000
    return said, None


def load(path):
    checkpoint = load_checkpoint(path, "model")
    checkpoint.build()
    return checkpoint


def check_loaded(checkpoint):
    facts = checkpoint.facts
    assert facts.no_class in (None, 0, 1, 2, 3) and len(facts.class_names) <= 4 and 1 <= facts.image_size <= 4096


@tried
@given(st.data())
def test_a_changed_header_is_read_or_refused_in_a_sentence(data):
    header, numbers = network()
    if data.draw(st.booleans()):
        header = json.dumps(data.draw(changed(json.loads(header)))).encode()
    header = spoilt(header, data.draw(SPOILT))
    length = data.draw(st.sampled_from((len(header),) * 4 + (0, len(header) - 1, len(header) + 1, 2**63, 2**64 - 1)))
    said, checkpoint = refused(struct.pack("<Q", length) + header + numbers, load)
    if said is None:
        check_loaded(checkpoint)


@tried
@given(st.data())
def test_a_changed_configuration_or_fact_is_read_or_refused_in_a_sentence(data):
    header, numbers = network()
    header = json.loads(header)
    metadata = header["__metadata__"]
    for key in data.draw(st.sets(st.sampled_from(sorted(metadata)), min_size=1, max_size=2)):
        stated = metadata[key]
        try:
            options = st.one_of(changed({"": json.loads(stated)}).map(lambda held: held.get("")), JSON).map(json.dumps)
        except ValueError:  # a text, as it is
            options = st.text(max_size=20)
        metadata[key] = data.draw(st.one_of(options, st.text(max_size=20)))
    said = json.dumps(header).encode()
    refusal, checkpoint = refused(struct.pack("<Q", len(said)) + said + numbers, load)
    if refusal is None:
        check_loaded(checkpoint)


@cache
def archive():
    """{name: content} of a file of PyTorch."""
    file = io.BytesIO()
    torch.save({"state_dict": {"w": torch.ones(2, 3), "b": torch.ones(3).half()}, "epoch": 3}, file)
    with zipfile.ZipFile(file) as found:
        return {entry.filename: found.read(entry) for entry in found.infolist()}


def zipped(entries):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as made:
        for name, content in entries:
            made.writestr(name, content)
    return file.getvalue()


@tried
@given(st.data())
def test_a_changed_pickle_in_an_archive_is_described_or_refused_in_a_sentence(data):
    parts = dict(archive())
    (name,) = [name for name in parts if name.endswith("/data.pkl")]
    parts[name] = data.draw(
        st.one_of(
            SPOILT.map(lambda changes: spoilt(parts[name], changes)),
            st.integers(0, len(parts[name])).map(lambda end: parts[name][:end]),
            JSON.map(pickle.dumps),
            st.binary(max_size=60),
        )
    )
    for other in sorted(parts):
        if other != name and data.draw(st.integers(0, 9)) == 0:
            parts[other] = data.draw(st.binary(max_size=30))
    content = spoilt(zipped(parts.items()), data.draw(SPOILT) if data.draw(st.integers(0, 3)) == 0 else ())
    for reader in (read, read_untrusted):
        said, found = refused(content, reader, "model.pt")
        state = {} if said else found[0] if reader is read else found.tensors
        assert sum(value.nbytes for value in state.values()) <= 4 * len(content)


@cache
def streamed():
    file = io.BytesIO()
    torch.save({"w": torch.ones(2, 3)}, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


@tried
@given(SPOILT, st.integers(0, 2000))
def test_a_changed_file_of_before_1_6_is_described_or_refused_in_a_sentence(changes, end):
    content = spoilt(streamed(), changes)[: end + 100]
    for reader in (read, read_untrusted):
        refused(content, reader, "model.pt")
