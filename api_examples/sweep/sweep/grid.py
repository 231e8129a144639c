"""A grid: which inputs take which values.

5.inputs.guidance_scale: [0, 2, 4]          # axes are crossed
5.inputs.seed: {from: 1, to: 8}             # whole numbers, both ends; step: 2
zip:                                        # a group is one axis: first with first, second with second
  - {2.inputs.text: [a cat, a dog], 9.inputs.filename_prefix: [cat, dog]}
random: {n: 16, seed: 0, inputs: {5.inputs.eta: {from: 0.0, to: 1.0}}}      # log: true, or a list to choose from
csv: settings.csv                           # a column is an input, a row a setting
sheet: {columns: 5.inputs.seed}             # which axis runs across the contact sheet; else the last one
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .errors import SweepError
from .workflow import Prompt, find_input

Settings = dict[str, Any]  # values by input name
WORDS = ("zip", "random", "csv", "sheet")


@dataclass(frozen=True)
class Axis:
    """Points along one direction of the grid; a point sets one input or several."""

    name: str
    points: tuple[Settings, ...]

    @property
    def inputs(self) -> list[str]:
        return list(self.points[0])


@dataclass(frozen=True)
class Grid:
    """Axes, crossed with each other in their order: the last one runs fastest."""

    axes: tuple[Axis, ...]
    columns: tuple[Axis, ...]  # those that run across the contact sheet

    def settings(self) -> list[Settings]:
        """Every point of the grid."""
        points = itertools.product(*(axis.points for axis in self.axes))
        return [{name: value for part in point for name, value in part.items()} for point in points]


def read_grid(path: Path, prompt: Prompt) -> Grid:
    """The grid of a YAML file. Raises SweepError for names that the workflow lacks and values that don't fit."""
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise SweepError(f"there is no grid {path}") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SweepError(f"{path} can't be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not content:
        raise SweepError(f"{path} is empty; a grid needs a line such as 5.inputs.seed: [1, 2, 3]")
    axes = _axes({str(key): value for key, value in content.items()}, path)
    names = [name for axis in axes for name in axis.inputs]
    for name in names:
        if names.count(name) > 1:
            raise SweepError(f"{path}: {name} stands on two axes; name it once")
    axes = tuple(Axis(axis.name, tuple(_fitting(prompt, point) for point in axis.points)) for axis in axes)
    return Grid(axes, _columns(content.get("sheet"), axes, path))


def _axes(content: Mapping[str, Any], path: Path) -> list[Axis]:
    axes = [_listed(key, values) for key, values in content.items() if key not in WORDS]
    groups = content.get("zip", [])
    axes += [_zipped(group) for group in (groups if isinstance(groups, list) else [groups])]
    if "random" in content:
        axes.append(_drawn(content["random"]))
    if "csv" in content:
        axes.append(_rows(path.parent / str(content["csv"])))
    return axes


def _values(name: str, values: Any) -> list[Any]:
    """A list, or the whole numbers of {from, to, step}."""
    if isinstance(values, dict) and {"from", "to"} <= set(values) <= {"from", "to", "step"}:
        low, high, step = values["from"], values["to"], values.get("step", 1)
        if all(type(part) is int for part in (low, high, step)) and step > 0 and low <= high:
            return list(range(low, high + 1, step))
    if isinstance(values, list) and values:
        return values
    raise SweepError(f"{name}: a list of values or {{from: 1, to: 8}} in whole numbers is needed, {values!r} came")


def _listed(name: str, values: Any) -> Axis:
    return Axis(name, tuple({name: value} for value in _values(name, values)))


def _zipped(group: Any) -> Axis:
    if not isinstance(group, dict) or not group:
        raise SweepError(f"zip: each group is a mapping of inputs to lists, {group!r} came")
    lists = {str(name): _values(str(name), values) for name, values in group.items()}
    lengths = {name: len(values) for name, values in lists.items()}
    if len(set(lengths.values())) > 1:
        raise SweepError(f"zip: lists of one group have the same length, there are {lengths}")
    points = (dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True))
    return Axis(" + ".join(lists), tuple(points))


def _drawn(content: Any) -> Axis:
    if not isinstance(content, dict) or set(content) - {"n", "seed", "inputs"} or not content.get("inputs"):
        raise SweepError(f"random: n, seed and inputs are needed, {content!r} came")
    number, source = content.get("n"), random.Random(content.get("seed", 0))
    if type(number) is not int or number < 1:
        raise SweepError(f"random: n is a whole number above 0, {number!r} came")
    inputs = {str(name): chosen for name, chosen in content["inputs"].items()}
    return Axis("random", tuple({name: _draw(source, *pair) for name, pair in _pairs(inputs)} for _ in range(number)))


def _pairs(inputs: Mapping[str, Any]) -> list[tuple[str, tuple[str, Any]]]:
    return [(name, (name, chosen)) for name, chosen in inputs.items()]


def _draw(source: random.Random, name: str, chosen: Any) -> Any:
    """One value of a list or of a range: whole numbers between whole ends, else evenly, with log: true in the log."""
    if isinstance(chosen, list) and chosen:
        return source.choice(chosen)
    if isinstance(chosen, dict) and {"from", "to"} <= set(chosen) <= {"from", "to", "log"}:
        low, high, log = chosen["from"], chosen["to"], chosen.get("log", False)
        if all(isinstance(end, int | float) for end in (low, high)) and low <= high and (low > 0 or not log):
            if log:
                return float(f"{math.exp(source.uniform(math.log(low), math.log(high))):.6g}")
            whole = type(low) is int and type(high) is int
            return source.randint(low, high) if whole else round(source.uniform(low, high), 6)
    raise SweepError(f"random: {name}: a list or {{from: 0.0, to: 1.0}} is needed (above 0 for log), {chosen!r} came")


def _rows(path: Path) -> Axis:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise SweepError(f"csv: {path} can't be read: {error}") from None
    if not rows or any(None in row or None in row.values() for row in rows):
        raise SweepError(f"csv: {path} needs a header of inputs and rows as long as the header")
    return Axis(path.name, tuple({name.strip(): _Text(value) for name, value in row.items()} for row in rows))


class _Text(str):
    """A cell of a CSV: what it means, only the workflow's own value tells."""


def _fitting(prompt: Prompt, point: Settings) -> Settings:
    return {name: _fit(prompt, name, value) for name, value in point.items()}


def _fit(prompt: Prompt, name: str, value: Any) -> Any:
    """A value as the kind that the workflow has there: YAML reads 1e-3 as text and no as false."""
    node, entry = find_input(prompt, name)
    now = prompt[node]["inputs"].get(entry)
    if isinstance(value, _Text) and not isinstance(now, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = str(value)
    number = isinstance(now, int | float) and not isinstance(now, bool)
    if number and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            raise SweepError(f"{name} is a number ({now!r} in the workflow), the grid has {value!r}") from None
    if isinstance(now, str) and isinstance(value, bool | int | float):
        raise SweepError(f"{name} is text ({now!r} in the workflow), the grid has {value!r}; put it in quotes")
    return str(value) if isinstance(value, _Text) else value


def _columns(content: Any, axes: tuple[Axis, ...], path: Path) -> tuple[Axis, ...]:
    """The axes of `sheet`, or the last ones: as many as make the sheet nearly square, rather wide than high."""
    if content is None:
        sizes = [len(axis.points) for axis in axes]
        splits = range(1, len(axes)) if len(axes) > 1 else range(1)
        return axes[min(splits, key=lambda k: abs(math.log(math.prod(sizes[k:]) / (1.5 * math.prod(sizes[:k]))))) :]
    wanted = content.get("columns") if isinstance(content, dict) else content
    found = []
    for name in map(str, wanted if isinstance(wanted, list) else [wanted]):
        found += [axis for axis in axes if name in (axis.name, *axis.inputs)]
        if not found or name not in (found[-1].name, *found[-1].inputs):
            raise SweepError(f"{path}: sheet: no axis has {name!r}; there are {', '.join(axis.name for axis in axes)}")
    return tuple(found)
