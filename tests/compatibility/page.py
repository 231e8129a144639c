"""The table as a help page."""

from .verdicts import REFUSED, SAID

TITLES = {
    "guiders": (
        "Patches under guiders",
        "A patch of the MODEL, or one of the pack's samplers, under each guider of the host and CFG Combiner. "
        "`patch on ...`: the patched MODEL is the second one.",
    ),
    "conditioning": (
        "Patches and conditioning nodes",
        "The node's CONDITIONING is the positive of CFGGuider, or KSampler; Zero Out's the negative.",
    ),
    "rows": (
        "Conditioning nodes under guiders",
        "Without a patch. A further condition of CFG Combiner must not push where its CONDITIONING says nothing.",
    ),
    "chains": (
        "Chains of samplers",
        "Two samplers of one seed, one after the other, must draw the picture of one run. What remembers earlier steps "
        "begins anew in each, and says so. With denoise below 1 the last steps of a longer run are meant.",
    ),
}
HEAD = """# What works with what

Written by a test run on ComfyUI {host}. Every cell was tried, on the pack's own pixel model and the CONDITIONING of
Class Conditioning.

- **works**: the picture is the one that follows from the formula: a patch acts where it must and nowhere else.
- **refused**: the run ends at once, with the sentence below the table.
- **says so**: the picture is another one, and the log says so with the sentence below the table.
- An empty cell: there is nothing to try.
"""


def page(verdicts, host):
    """Markdown of verdicts by (table, row, column)."""
    parts = [HEAD.format(host=host)]
    for table, (title, text) in TITLES.items():
        own = {key[1:]: found for key, found in verdicts.items() if key[0] == table}
        parts += [f"## {title}\n\n{text}\n", _table(own)]
    return "\n".join(parts)


def _table(own):
    rows, columns = (list(dict.fromkeys(key[place] for key in own)) for place in (0, 1))
    sentences = list(dict.fromkeys(found.words for found in own.values() if found.kind in (REFUSED, SAID)))

    def cell(row, column):
        found = own.get((row, column))
        if found is None:
            return ""
        return f"{found.kind} ({sentences.index(found.words) + 1})" if found.words in sentences else found.kind

    lines = [f"| | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
    lines += [f"| {row} | {' | '.join(cell(row, column) for column in columns)} |" for row in rows]
    notes = [f"{number}. {words}" for number, words in enumerate(sentences, 1)]
    return "\n".join([*lines, "", *notes, *([""] if notes else [])])
