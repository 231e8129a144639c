"""What nodes say: the answer first, then input and node; what a user should know though it worked is seen."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

from comfy_api.latest import io

from ...models.messages import plain

FILE = "_name"  # how inputs end that choose a file: files come and go, and who opens one says it best


class InputError(ValueError):
    """A problem with one named input: the answer, then where."""

    def __init__(self, answer: str, name: str):
        super().__init__(f"{answer} (input '{name}')")
        self.answer, self.name = answer, name

    def of(self, node: str) -> str:
        return f"{self.answer} (input '{self.name}' of {node})"


@contextmanager
def about(name: str) -> Iterator[None]:
    """Puts an input's name after any ValueError raised inside."""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        raise InputError(str(error), name) from error


@contextmanager
def during(what: str) -> Iterator[None]:
    """Puts what is being done after any exception's message; its kind stays, by which the host frees memory."""
    try:
        yield
    except Exception as error:
        if error.args and isinstance(error.args[0], str):
            error.args = (f"{error.args[0]} ({what})", *error.args[1:])
        raise


def refusal(check: Callable[..., Any], *values: Any) -> bool | str:
    """For a node's `validate_inputs`: True, or what `check` says of what was typed, before anything runs.

    A value of None comes from another node and isn't known yet.
    """
    if None in values:
        return True
    try:
        check(*values)
    except InputError as error:
        return error.answer
    except ValueError as error:
        return str(error)
    return True


def check_values(inputs: Sequence[Any], values: Mapping[str, Any], within: str = "", lists: bool = False) -> None:
    """Every number is finite and within the limits of its widget, every choice one of its list, every text one.

    The host checks those that are typed, and NaN passes; a linked one it doesn't look at. `lists`: of a node that takes
    whole lists. Raises InputError.
    """
    for entry in inputs:
        name, value = f"{within}{entry.id}", values.get(entry.id)
        if entry.id not in values:
            continue
        with about(name):
            for one in value if lists and isinstance(value, list) else [value]:
                _check_value(entry, name, one)
        if isinstance(value, Mapping):
            check_values(_inputs_within(entry, value), value, f"{name}.", lists)


def _check_value(entry: Any, name: str, value: Any) -> None:
    if isinstance(entry, io.Int.Input | io.Float.Input):
        _check_number(entry, value)
    elif isinstance(entry, io.String.Input) and not isinstance(value, str):
        raise ValueError(f"a text is needed, and {type(value).__name__} came")
    elif isinstance(entry, io.Combo.Input) and not name.endswith(FILE):
        _check_choice(value, entry.options)
    elif isinstance(entry, io.DynamicCombo.Input):
        chosen = value.get(entry.id) if isinstance(value, Mapping) else value
        _check_choice(chosen, [option.key for option in entry.options])


def _inputs_within(entry: Any, value: Mapping[str, Any]) -> Sequence[Any]:
    """Inputs of a dynamic one: those of the chosen option, or those that have grown."""
    if isinstance(entry, io.DynamicCombo.Input):
        return [inner for option in entry.options if option.key == value.get(entry.id) for inner in option.inputs]
    return entry.template.get_all() if isinstance(entry, io.Autogrow.Input) else []


def _check_number(entry: Any, value: Any) -> None:
    kind: Any
    kind, word = (Integral, "whole number") if isinstance(entry, io.Int.Input) else (Real, "number")
    if not isinstance(value, kind):
        raise ValueError(f"a {word} from {entry.min} to {entry.max} is needed, and {type(value).__name__} came")
    if not entry.min <= value <= entry.max:  # nor is NaN
        came = Decimal(int(value)) if isinstance(value, Integral) else float(value)
        raise ValueError(f"{entry.min} to {entry.max} are possible, and {came:.6g} came")


def _check_choice(value: Any, options: Sequence[str | int]) -> None:
    if value not in options:
        raise ValueError(f"there is no {value!r}; there are {', '.join(map(str, options))}")


class GuidanceNode(io.ComfyNode):
    """Base of the pack's nodes: `run` does the work, `execute` checks values and names the node in errors."""

    @classmethod
    def run(cls, **inputs: Any) -> io.NodeOutput:
        raise NotImplementedError

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        schema = cls.SCHEMA or cls.define_schema()  # GET_SCHEMA writes to the class, which the host has locked
        try:
            check_values(schema.inputs, inputs, lists=bool(schema.is_input_list))
            return cls.run(**inputs)
        except ValueError as error:
            node = schema.display_name
            said = error.of(node) if isinstance(error, InputError) else f"{error} ({node})"
            raise ValueError(plain(said)) from error


def noticed(text: str) -> Any:
    """Says it in the log, on the node and in the run's history; what to return as a node's `ui`.

    None for an empty text, which is nothing to say.
    """
    if not text:
        return None
    from comfy_execution.utils import get_executing_context
    from server import PromptServer  # here: the host's server is slow to import where it isn't running

    text = plain(text)
    logging.warning("Diffusion Guidance: %s", text)
    context, server = get_executing_context(), getattr(PromptServer, "instance", None)
    if context is not None and server is not None:  # not in a node that runs outside a graph
        server.send_progress_text(text, context.node_id)
    return {"text": [text]}
