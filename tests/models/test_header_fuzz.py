"""Headers, configurations and facts with random changes: read as what they are, or refused in a sentence."""

import json
import random
import struct

import pytest

from pack.models.registry import load_checkpoint
from pack.models.state_dict import CheckpointError

VALUES = (
    None,
    True,
    -1,
    0,
    1,
    7,
    2**31,
    2**63,
    10**30,
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "a",
    "9" * 50,
    [],
    {},
)
TRIES = 150  # for each seed


@pytest.fixture(scope="module")
def own():
    """(header, numbers) of a small network of ours."""
    from hostile.case import MODEL
    from hostile.claims import own
    from safetensors.torch import save

    content = save(*own(MODEL))
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def places(value, path=()):
    """Paths to every value within."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from places(part, (*path, key))


def mutated(value, rng):
    """With one value changed, taken away, doubled or made of lists."""
    path = rng.choice([path for path in places(value) if path])
    outer = value
    for key in path[:-1]:
        outer = outer[key]
    kind = rng.randrange(4)
    if kind == 0:
        del outer[path[-1]]
    elif kind == 1 and isinstance(outer, list):
        outer.extend(list(outer) * rng.randrange(1, 50))
    elif kind == 2:
        outer[path[-1]] = [outer[path[-1]]] * rng.randrange(4)
    else:
        outer[path[-1]] = rng.choice(VALUES)
    return value


def one(own, rng):
    """A file with a change in its header, or in the JSON within its metadata."""
    header = json.loads(json.dumps(own[0]))
    metadata = header["__metadata__"]
    if rng.random() < 0.7:
        key = rng.choice(["config", "class_names", "class_groups", "guesses"])
        inner = mutated({"": json.loads(metadata[key])}, rng)
        metadata[key] = json.dumps(inner.get(""))
    else:
        header = mutated(header, rng)
    raw = bytearray(json.dumps(header).encode())
    if rng.random() < 0.2:
        raw[rng.randrange(len(raw))] = rng.randrange(256)
    return struct.pack("<Q", len(raw)) + raw + own[1]


@pytest.mark.parametrize("seed", range(4))
def test_a_changed_header_is_read_or_refused_in_a_sentence(own, tmp_path, seed):
    rng, path = random.Random(seed), tmp_path / "model.safetensors"
    for _ in range(TRIES):
        path.write_bytes(one(own, rng))
        try:
            checkpoint = load_checkpoint(path, "model")
        except CheckpointError as error:
            assert str(error).startswith("model.safetensors ") and str(error).isprintable()
        else:
            assert checkpoint.facts.no_class in (None, 0, 1, 2, 3) and len(checkpoint.facts.class_names) <= 4
            checkpoint.build()
