"""One hostile file, and files written byte by byte."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MODEL, CLASSIFIER, ENCODER, AUTOENCODER = "LoadModel", "LoadClassifier", "LoadEncoder", "LoadDiffusionAutoencoder"
MATCHER, PRIOR, SCORER = "LoadMatcher", "LoadPrior", "LoadScorer"
HSPACE, SEMANTIC, CONVERT, RESUME = "LoadHSpaceDirection", "LoadSemanticDirection", "convert", "resume"
LOADERS = (MODEL, CLASSIFIER, ENCODER, MATCHER, PRIOR, SCORER, AUTOENCODER, HSPACE, SEMANTIC)
READERS = (*LOADERS, CONVERT, RESUME)


@dataclass(frozen=True)
class Case:
    """`write` makes the file; `home` is the reader that it is meant for; `taken` are readers that may take it."""

    name: str
    write: Callable[[Path], object]
    home: str = MODEL
    taken: tuple[str, ...] = ()


def content(data):
    """A file of these bytes."""
    return lambda path: path.write_bytes(data() if callable(data) else data)


def header(text, numbers=b"", length=None):
    """A safetensors file around a header that is any text, or bytes."""
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(raw) if length is None else length) + raw + numbers


def entry(dtype="F32", shape=(1,), start=0, end=4):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def tensors(entries, numbers=bytes(4)):
    """A safetensors file whose header is written by hand."""
    return header(json.dumps(entries), numbers)


def empty(**shapes):
    """A safetensors file of tensors that hold no number, whatever shape they claim; keys have __ for a dot."""
    return tensors({key.replace("__", "."): entry(shape=shape, end=0) for key, shape in shapes.items()}, b"")
