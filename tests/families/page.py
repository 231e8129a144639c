"""What was found, as the help page Which models."""

import re

from compatibility.verdicts import REFUSED, SAID

from .decoders import decoder_table
from .table import FAMILIES, NOT_BUILT
from .trials import TRIALS

HEAD = """# Which models

Written by a test run on ComfyUI {host}: each image and video family that this ComfyUI knows was built small, with random
weights, and every feature was tried on it. Whether a trained model draws better for it is not said here: for that, see
the help of each node.

- **works**: guides move the sample and are reported, and the gradient of *through denoiser* is that of finite differences;
  the guider's formula holds for CFG Combiner with two conditions; every method of CFG Patch acts (`perp-neg` needs a
  condition of negative scale, which CFG Combiner has).
- **refused**: the run ends at once, with the sentence below the table.
- **works, but (n)**: all works but for what the sentence names.

A model that stands under another name in the list: look for its family. A LoRA, a fine-tune, a distilled or a quantised
file is of the family of its base.

## Families

"""
DECODERS = """
## Decoders

Text, Style, Content and Structure Guide look at pixels. How they get them, cheapest first: the tiny decoder in
`ComfyUI/models/vae_approx` that ComfyUI has for the model's latents, if you put it there; else the VAE at `vae`. What is
connected to `tiny_vae` goes before both. Models on pixels need none, and Palette Guide only where the last column says
so. Of a video, `frames` neighbouring frames of the latent are decoded in each step, 4 as it comes.

"""
ABSENT = """
## Not tried

| class | why |
| --- | --- |
"""


def page(verdicts, host):
    """Markdown of verdicts by (family, trial)."""
    absent = "\n".join(f"| {name} | {why} |" for name, why in NOT_BUILT.items())
    return f"{HEAD.format(host=host)}{families(verdicts)}{DECODERS}{decoder_table()}{ABSENT}{absent}\n"


def families(verdicts):
    notes = list(dict.fromkeys(found.words for found in verdicts.values() if found.kind in (REFUSED, SAID)))
    lines = [f"| model | class | {' | '.join(TRIALS)} |", f"| --- | --- |{' --- |' * len(TRIALS)}"]
    lines += [row(name, verdicts, notes) for name in FAMILIES]
    return "\n".join([*lines, "", *(f"{number}. {words}" for number, words in enumerate(notes, 1)), ""])


def sentences(text):
    """Those of a page, in order."""
    return re.findall(r"^[0-9]+\. (.+)$", text, re.MULTILINE)


def row(name, verdicts, notes):
    """One line of the table, which names its sentences by number."""
    cells = [cell(verdicts[name, trial], notes) for trial in TRIALS]
    return f"| {FAMILIES[name].names} | {name} | {' | '.join(cells)} |"


def cell(found, notes):
    kind = "works, but" if found.kind == SAID else found.kind
    return f"{kind} ({notes.index(found.words) + 1})" if found.words in notes else kind
