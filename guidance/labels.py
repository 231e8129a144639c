"""Class labels as people write them: names or indices, one a line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from .classifier_energy import NO_CLASS

LONGEST_INDEX = 20  # digits


def parse_labels(text: str, class_names: Sequence[str], batch: int) -> list[int]:
    """One class index for each image of the batch, NO_CLASS where the text is empty.

    Labels stand one a line or between semicolons (names contain commas); one label serves the whole batch. Raises
    ValueError for unknown names (with the nearest ones), indices out of range, and a number of labels that is neither 1
    nor the batch size.
    """
    parts = [part.strip() for part in re.split(r"[\n;]", text.strip())]
    labels = [_index(part, class_names) for part in parts]
    if len(labels) == 1:
        return labels * batch
    if len(labels) != batch:
        raise ValueError(f"{len(labels)} labels came for a batch of {batch}; give one label, or {batch}, one a line")
    return labels


def _index(label: str, class_names: Sequence[str]) -> int:
    if not label:
        return NO_CLASS
    if label in class_names:
        return list(class_names).index(label)
    lowered = [name.lower() for name in class_names]
    if label.lower() in lowered:
        return lowered.index(label.lower())
    if re.fullmatch(r"[+-]?\d+", label):
        index = int(label) if len(label) <= LONGEST_INDEX else -1
        if not 0 <= index < len(class_names):
            raise ValueError(
                f"class index {label} is out of range; {len(class_names)} classes run from 0 to {len(class_names) - 1}"
            )
        return index
    near = difflib.get_close_matches(label.lower(), lowered, n=3, cutoff=0.5)
    names = [class_names[lowered.index(name)] for name in near] or list(class_names[:8])
    hint = "did you mean " if near else "known are, for instance, "
    raise ValueError(f"there is no class {label!r}; {hint}{', '.join(names)}")
