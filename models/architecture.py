"""What the pack knows of a family of checkpoints, and how it finds the family of a file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from .bounds import check_config
from .facts import Facts, of_json, stated, written
from .memory import check_memory
from .state_dict import CheckpointError, StateDict, averaged_weights, bare, without_bookkeeping

ConfigT = TypeVar("ConfigT")
COLOURS = 3
LONGEST_DESCRIPTION = 1 << 20  # bytes
DESCRIPTION = "guidance_description"  # a key: our metadata as bytes, in files that the host saves of our models


class UnknownArchitectureError(CheckpointError):
    """A file of no known family."""


@dataclass(frozen=True)
class Architecture(Generic[ConfigT]):
    """One family of checkpoints."""

    id: str
    title: str
    """The family in words, for messages."""
    kind: str
    """"model" (predicts noise), "classifier", "encoder", "matcher", "scorer" or "prior" (of an unCLIP)."""
    keys: tuple[str, ...]
    """Keys that every file of the family has."""
    absent: tuple[str, ...]
    """Keys that would make it another family."""
    read_config: Callable[[StateDict], ConfigT]
    """From shapes alone; what shapes can't tell comes from the family's own table."""
    parse_config: Callable[[Mapping[str, Any]], ConfigT]
    """From the JSON that our own files carry."""
    build: Callable[..., nn.Module]
    """(config, operations=, attention=, dtype=, device=) -> network with the file's own parameter names."""
    facts: Callable[[ConfigT], Facts]
    ignored: tuple[str, ...] = ()
    """Beginnings of keys that files have and the network doesn't need."""
    inputs: tuple[int, ...] = ()
    """Channels of its input beside those of a picture, or of two in an upsampler."""
    beside: tuple[str, ...] = ()
    """Keys that stand beside the network's: kept apart, where a file has them."""
    guesses: Callable[[ConfigT], dict[str, str]] = lambda config: {}
    """What was assumed of a file that nobody knows, {input of its loader: value}; empty for public files."""

    def lacks(self, state: StateDict) -> list[str]:
        return [key for key in self.keys if key not in state] + [f"no {key}" for key in self.absent if key in state]

    def distance(self, state: StateDict) -> float:
        """Share of its keys that a file lacks. Of two names that any network may have, half is nothing."""
        missing = len(self.lacks(state))
        return missing / len(self.keys) if len(self.keys) > 2 else float(missing > 0)


@dataclass(frozen=True)
class Checkpoint:
    """A file whose family and configuration are known and whose weights fit exactly."""

    name: str
    architecture: Architecture[Any]
    config: Any
    facts: Facts
    state: dict[str, Tensor]
    beside: Mapping[str, Tensor] = field(default_factory=dict)
    guesses: Mapping[str, str] = field(default_factory=dict)
    """What was assumed, {input of its loader: value}, because neither weights nor metadata tell it."""

    def build(self, **options: Any) -> nn.Module:
        """The network without its weights; options as in `Architecture.build`. Nobody's random numbers are used up."""
        device = torch.device(options.get("device") or "cpu")
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            return self.architecture.build(self.config, **options)


def tuples(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration from JSON, with its lists as tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}


def first_fitting(state: StateDict, families: Sequence[Architecture[Any]]) -> Architecture[Any] | None:
    return next((family for family in families if not family.lacks(state)), None)


def detect(state: StateDict, families: Sequence[Architecture[Any]], name: str) -> Architecture[Any]:
    """The first family that the keys fit. Raises UnknownArchitectureError with the nearest one."""
    if (fitting := first_fitting(state, families)) is not None:
        return fitting
    nearest = min(families, key=lambda family: family.distance(state))
    shown = ", ".join(sorted(state)[:3])
    raise UnknownArchitectureError(
        f"{name} belongs to no family that can be read here. The nearest is {nearest.title}, for which it lacks: "
        f"{', '.join(nearest.lacks(state))}. Its first keys are: {shown}"
    )


def parse(
    name: str, state: dict[str, Tensor], metadata: Mapping[str, str], families: Sequence[Architecture[Any]]
) -> Checkpoint:
    """Family, configuration and facts of a state dict, checked key by key and shape by shape."""
    if DESCRIPTION in state:
        metadata = {**metadata, **_described(state, name)}
    if any(key.startswith("first_stage_model.") for key in state):
        raise CheckpointError(
            f"{name} holds an autoencoder beside its network (first_stage_model.), so the network works on latents; "
            "models of pictures are loaded here, and Load Checkpoint loads Stable Diffusion's"
        )
    state = own_names(state, families)
    own = {family.id: family for family in families}.get(metadata.get("architecture", ""))
    family = own or detect(state, families, name)
    beside = {key: state.pop(key) for key in family.beside if key in state}
    if own is not None:
        config = _stated_config(own, metadata, len(state), name)
    else:
        config = _read(family, state, name)
        state = {key: value for key, value in state.items() if not key.startswith(family.ignored or "\0")}
    _check_channels(family, config, name)
    _check_weights(family, config, state, name)  # before anything is made of as many classes as it claims
    facts, guesses = _facts(family, config, {} if own is None else metadata, name)
    return Checkpoint(name, family, config, facts, state, beside, guesses)


def _described(state: StateDict, name: str) -> dict[str, str]:
    """Our metadata out of a file that the host saved."""
    told = state[DESCRIPTION]
    try:
        if told.dtype != torch.uint8 or told.ndim != 1 or len(told) > LONGEST_DESCRIPTION:
            raise ValueError("it is no text")
        found = of_json({DESCRIPTION: told.numpy().tobytes().decode()}, DESCRIPTION, dict)
        if not all(isinstance(value, str) for value in found.values()):
            raise ValueError("it holds more than texts")
        return found
    except ValueError as error:
        raise CheckpointError(
            f"{name} was saved of one of this pack's models, and its description is damaged"
        ) from error


def own_names(state: StateDict, families: Sequence[Architecture[Any]]) -> dict[str, Tensor]:
    """The weights that a network is sampled with, under their own names where that leads nearer to a family."""
    state = averaged_weights(without_bookkeeping(state))
    state.pop(DESCRIPTION, None)
    within = averaged_weights(bare(state))
    if _distance(within, families) >= _distance(state, families):
        return state
    return within


def _distance(state: StateDict, families: Sequence[Architecture[Any]]) -> float:
    """Share of its keys that the nearest family lacks."""
    return min(family.distance(state) for family in families)


@contextmanager
def _saying(family: Architecture[Any], name: str) -> Iterator[None]:
    """Puts before any ValueError what one of our own files says it is."""
    try:
        yield
    except ValueError as error:
        raise CheckpointError(
            f"{name} says it is {family.title}, but its configuration can't be read: {error}"
        ) from error


def _stated_config(family: Architecture[ConfigT], metadata: Mapping[str, str], keys: int, name: str) -> ConfigT:
    """The configuration that one of our own files carries."""
    with _saying(family, name):
        read = of_json(metadata, "config", dict)
        try:
            config = family.parse_config(read)
        except (
            TypeError,
            AttributeError,
            ArithmeticError,
        ) as error:  # the text names a field too many, or missing ones
            names = ", ".join(re.findall(r"'(.+?)'", str(error)))
            what = "has also" if "unexpected" in str(error) else "lacks"
            raise ValueError(f"its config {what} {names or 'what it needs'}") from error
        check_config(config, keys)
        return config


def _facts(
    family: Architecture[Any], config: Any, metadata: Mapping[str, str], name: str
) -> tuple[Facts, dict[str, str]]:
    """Facts and guesses: those that the metadata states before those that the configuration implies."""
    try:
        read = family.facts(config)
    except ValueError as error:
        raise CheckpointError(f"{name} looks like {family.title}, but can't be one: {error}") from error
    if not metadata:
        return read, family.guesses(config)
    with _saying(family, name):
        classes = {"classifier": "out_channels", "model": "num_classes", "scorer": "outputs"}.get(family.kind, "")
        facts = stated(read, metadata, getattr(config, classes, None) or 0)
        guesses = of_json({"guesses": "{}", **metadata}, "guesses", dict)
        if not all(isinstance(value, str) for value in guesses.values()):
            raise ValueError("its guesses are no texts")
        return facts, guesses


def _read(family: Architecture[ConfigT], state: StateDict, name: str) -> ConfigT:
    likeness = f"{name} looks like {family.title}, but can't be one"
    try:
        config = family.read_config(state)
    except CheckpointError as error:
        raise CheckpointError(f"{name} {error}") from error
    except KeyError as error:
        raise CheckpointError(f"{likeness}: {error} is missing") from error
    except (LookupError, ValueError, ArithmeticError, TypeError, RuntimeError) as error:
        check_memory(error)
        raise CheckpointError(f"{likeness}: the shapes of its weights are odd") from error
    try:
        check_config(config, len(state))
    except ValueError as error:
        raise CheckpointError(f"{likeness}: {error}") from error
    return config


def metadata_of(checkpoint: Checkpoint) -> dict[str, str]:
    """What `parse` needs of one of our own files beside its weights."""
    metadata = {"architecture": checkpoint.architecture.id, "config": json.dumps(asdict(checkpoint.config))}
    return metadata | written(checkpoint.facts) | {"guesses": json.dumps(dict(checkpoint.guesses))}


def description(checkpoint: Checkpoint) -> Tensor:
    """`metadata_of` as the tensor DESCRIPTION, for hosts that save tensors alone. [bytes] uint8."""
    return torch.tensor(list(json.dumps(metadata_of(checkpoint)).encode()), dtype=torch.uint8)


def _check_channels(family: Architecture[Any], config: Any, name: str) -> None:
    """Raises CheckpointError for models and classifiers of anything but colour pictures."""
    if family.kind not in ("model", "classifier"):
        return
    given, upsampler = config.in_channels, family.kind == "model" and config.in_channels == 2 * COLOURS
    if given != COLOURS and not upsampler and given not in family.inputs:
        what = "grey pictures" if given == 1 else "latents of an autoencoder" if given == 4 else "something else"
        raise CheckpointError(
            f"{name} is {family.title} whose input has {given} channel{'s' * (given > 1)} ({what}); 3 colour channels "
            "are needed" + (", 6 in an upsampler; use a model of colour pictures" if family.kind == "model" else "")
        )
    if family.kind == "model" and config.out_channels not in (COLOURS, 2 * COLOURS, *family.inputs):
        raise CheckpointError(
            f"{name} is {family.title} that predicts {config.out_channels} channels; 3 are needed, or 6 with a learned "
            "variance"
        )


def _check_weights(family: Architecture[Any], config: Any, state: StateDict, name: str) -> None:
    try:
        with torch.device("meta"):
            expected = family.build(config).state_dict()
    except (ValueError, RuntimeError, ArithmeticError, TypeError, LookupError) as error:
        check_memory(error)
        reason = f"there is no {error}" if isinstance(error, KeyError) else error
        reason = "one of its lists is too short" if isinstance(error, IndexError) else reason
        raise CheckpointError(f"{name} looks like {family.title}, but can't be built as one: {reason}") from error
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    reshaped = [key for key in expected if key in state and expected[key].shape != state[key].shape]
    other = [
        key
        for key in expected
        if key in state and expected[key].is_floating_point() and not state[key].is_floating_point()
    ]
    if not (missing or unexpected or reshaped or other):
        return
    faults = [f"lacks {_some(missing)}"] * bool(missing) + [f"has also {_some(unexpected)}"] * bool(unexpected)
    for key in reshaped[:1]:
        faults.append(f"has {key} of shape {list(state[key].shape)} where {list(expected[key].shape)} is needed")
    for key in other[:1]:
        faults.append(f"has {key} as {state[key].dtype} where floating-point numbers are needed")
    raise CheckpointError(f"{name} is nearest to {family.title}, but it {' and '.join(faults)}")


def _some(keys: list[str], shown: int = 3) -> str:
    return ", ".join(keys[:shown]) + (f" and {len(keys) - shown} more keys" if len(keys) > shown else "")
