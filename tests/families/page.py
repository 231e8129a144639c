"""What was found, as the help page Which models."""

import re

from compatibility.verdicts import REFUSED, SAID

from .decoders import decoder_table
from .table import FAMILIES, NOT_BUILT, known
from .trials import TRIALS

HEAD = """# Which models

Written by a test run on ComfyUI {host}: each image and video family that this ComfyUI knows was built small, with
random weights, and every feature was tried on it. That says what runs and does what its formula says, not how good a
trained model's pictures become; a fine-tune, a distilled or a quantised file is of the family of its base.

- **works**: guides move the sample and are reported; the gradient of *through denoiser* is that of finite differences;
  the formula of CFG Combiner holds for two conditions; every method of CFG Patch acts (`perp-neg` needs a condition of
  negative scale, which CFG Combiner has).
- **works, but (n)**: all but what the sentence below the table names.
- **refused (n)**: the run ends at once, with that sentence.

## Families

"""
DECODERS = """
## Decoders

Text, Content, Structure and Style Guide look at pixels. They get them from the tiny decoder of the model's latents, if
it lies in `ComfyUI/models/vae_approx` under its name below; else from the VAE at `vae`. What is connected to `tiny_vae`
goes before both. Models on pixels need none. Of a video, `frames` neighbouring frames of the latent are decoded for
each look, 4 unless you say otherwise. Palette Guide reads colours off the latent itself.

"""
ABSENT = """
## Not tried

| class | why |
| --- | --- |
"""


def page(verdicts, host):
    """Markdown of verdicts by (family, trial)."""
    return f"{HEAD.format(host=host)}{families(verdicts)}{DECODERS}{decoder_table()}{ABSENT}{absent()}"


def absent():
    later = [name for name in FAMILIES if name not in known()]
    reasons = NOT_BUILT | dict.fromkeys(later, "of a later ComfyUI, where the tests try it")
    return "".join(f"| {name} | {why} |\n" for name, why in reasons.items())


def families(verdicts):
    notes = list(dict.fromkeys(found.words for found in verdicts.values() if found.kind in (REFUSED, SAID)))
    lines = [f"| model | class | {' | '.join(TRIALS)} |", f"| --- | --- |{' --- |' * len(TRIALS)}"]
    lines += [row(name, verdicts, notes) for name in known()]
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
