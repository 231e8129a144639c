"""What a cell of the table is found to be: it works, is refused in words, says what it does, or is silently wrong."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from networks import seeded

from .chains import CHAINS, picture, split
from .conditioning import NODES, RIGHT, apart, area, two
from .guiders import GUIDERS
from .patches import ALWAYS, GUIDES, IN_CHAINS, METHOD, NETWORK, PATCHES, RESCALED, SCALED
from .scene import BETWEEN, LEVELS, SCALE, SIDE, alone, with_lora

WORKS, REFUSED, SAID, SILENT = "works", "refused", "says so", "silently wrong"
SAMPLERS = {"DDIM Sampler": {"eta": 0.0}, "DDPM Sampler": {}}
ADVICE = re.compile(r"\b(use|choose|connect|set|remove|leave|load|wire|make|put|lower|write)\b")
NEAR, APART = 1e-3, 2e-3  # largest differences over the largest value: of what is the same, at least of what isn't


@dataclass(frozen=True)
class Verdict:
    kind: str
    words: str = ""


class SaidError(AssertionError):
    """Another picture than elsewhere, as the log says in these words."""


@contextmanager
def warned() -> Iterator[list[str]]:
    """The warnings of the log."""
    found: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: found.append(record.getMessage())
    logging.getLogger().addHandler(handler)
    try:
        yield found
    finally:
        logging.getLogger().removeHandler(handler)


def verdict(check):
    """Of one cell. Its check raises ValueError where the pack refuses it, SaidError, and AssertionError where not."""
    try:
        check()
    except ValueError as error:
        sentence = str(error)
        if "\n" in sentence or len(sentence) < 30 or not ADVICE.search(sentence):
            return Verdict(SILENT, f"the refusal says nothing of what to do: {sentence!r}")
        return Verdict(REFUSED, sentence)
    except SaidError as words:
        return Verdict(SAID, str(words))
    except (AssertionError, RuntimeError, TypeError, KeyError, IndexError, AttributeError) as error:
        return Verdict(SILENT, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    return Verdict(WORKS)


def distance(a, b):
    return float((a - b).abs().max() / b.abs().max())


def same(found, expected, what):
    assert torch.isfinite(found).all(), f"{what}: not finite"
    off = distance(found, expected)
    assert off < NEAR, f"{what}: {off:.2g} off"


def different(found, plain, what):
    assert torch.isfinite(found).all(), f"{what}: not finite"
    assert distance(found, plain) > APART, f"{what}: nothing happens"


# --- patch x guider x conditioning node


def together(scene, patch_name, guider_name, node_name):
    """A patch (or None) under a guider with a conditioning node (or None) on one of its rows."""
    patch, guider, node = PATCHES.get(patch_name), GUIDERS[guider_name], NODES.get(node_name)
    if node is not None and patch is not None:
        scene.once(together, None, guider_name, node_name)  # what doesn't work unpatched is not looked at patched
    for level in (0,) if node is None else node.levels:
        _at_level(scene, patch, guider, node, level)
    if node is None and patch is not None and patch.kind in (NETWORK, GUIDES):
        _outside_window(scene, patch, guider)


def patched(scene, patch, owner, window=ALWAYS):
    return patch.apply(scene, scene.models[owner], window)


def rows_of(scene, guider, node):
    rows = {key: scene.labels[key] for key in "pmn"}
    if node is not None:
        rows = {key: two(node.others, key, key)(scene) for key in rows} if node.others else rows
        rows[changed_row(guider, node)] = node.build(scene)
    return rows


def changed_row(guider, node):
    """The row that a conditioning node is used on."""
    return node.row if node.row in guider.owners else "p"


def _plain(scene, guider, node, level, scale=SCALE):
    """What the guider predicts without a patch."""
    return scene.predicted(guider.build(scene, scene.models, scene.once(rows_of, guider, node), scale), level)


def _at_level(scene, patch, guider, node, level):
    models = dict(scene.models)
    if patch is not None:
        models[guider.patched] = scene.once(patched, patch, guider.patched)
    rows = scene.once(rows_of, guider, node)
    found = scene.predicted(guider.build(scene, models, rows, SCALE), level)
    if node is not None and node.expected is None:  # what it should give is not known, but not what one part gives
        different(found, scene.once(_plain, guider, None, level), "one of its parts alone")
    elif patch is None or patch.kind == NETWORK:
        placed = patch is not None and patch.placed
        same(found, _by_formula(scene, guider, node, models, level, placed), "the guider's formula over its rows")
    if patch is None or level > 0:
        return
    plain = scene.once(_plain, guider, node, level)
    if patch.kind == RESCALED:
        assert guider.scaled, "a scale that the guider doesn't have is set, and nothing is said"
        same(found, scene.once(_plain, guider, node, level, SCALED), "the guider at that scale")
    elif patch.kind == METHOD and set(guider.owners) == {"p"}:
        same(found, plain, "without CFG there is nothing to change")
    else:
        different(found, plain, "the patch")


def _by_formula(scene, guider, node, models, level, placed=False):
    """The guider's formula over what BasicGuider predicts of each row."""

    def row(name, owner):
        key = "p" if name == "w" else name
        alone = partial(_alone, scene, models[owner], level, placed=placed)
        if node is not None and key == changed_row(guider, node):
            return node.expected(alone, level)
        return apart(alone, level, key, key) if node is not None and node.others else alone(key)

    return guider.formula(**{name: row(name, owner) for name, owner in guider.owners.items()}, scale=SCALE)


def _alone(scene, model, level, label, start=0, end=SIDE, lora=False, placed=False):
    model = scene.once(with_lora, model) if lora else model
    if placed and end - start < SIDE:
        return scene.once(_within, model, label, level, start, end)
    return scene.once(alone, model, label, level, start, end)


def _within(scene, model, label, level, start, end):
    """What BasicGuider predicts in an area of the whole sample, which is all that the CONDITIONING says."""
    columns = slice(start, end)
    rows = {"p": area(scene.labels[label], columns)}
    return scene.predicted(GUIDERS["BasicGuider"].build(scene, {"main": model}, rows, SCALE), level)[..., columns]


def _outside_window(scene, patch, guider):
    """A patch that ends before a level leaves it alone, to the bit."""
    models = {**scene.models, guider.patched: scene.once(patched, patch, guider.patched, (0.0, BETWEEN))}
    found = scene.predicted(guider.build(scene, models, rows_of(scene, guider, None), SCALE), 2)
    assert torch.equal(found, scene.once(_plain, guider, None, 2)), "outside its window the patch acts"


# --- a further condition of the combiner that says something only here and there


def further(scene, node_name):
    """Where it says nothing it doesn't push."""
    node, combiner = NODES[node_name], GUIDERS["CFG Combiner"]
    rows = {key: two(node.others, key, key)(scene) if node.others else scene.labels[key] for key in "pn"}
    for level in (0, 2):
        found = scene.predicted(combiner.build(scene, scene.models, {**rows, "m": node.partial(scene)}, SCALE), level)
        alone = partial(_alone, scene, scene.models["main"], level)
        p, m, n = (apart(alone, level, key, key) if node.others else alone(key) for key in "pmn")
        push = 1.5 * (m - n)
        if node_name == "Set Timestep Range":
            push = push if level < 2 else torch.zeros_like(push)
        else:
            push[..., RIGHT] = 0
        same(found, n + SCALE * (p - n) + push, "a push where it says nothing")


# --- published samplers


def sampler_under(scene, name, guider_name):
    """DDIM at eta 0 is euler's path; DDPM draws the same from the same seed, and something else."""
    guider = GUIDERS[guider_name]
    rows = rows_of(scene, guider, None)
    (sampler,) = scene.execute(f"Guidance_{name.replace(' ', '')}", clip_denoised=False, **SAMPLERS[name])
    found, again, euler = (_run(scene, guider, rows, each) for each in (sampler, sampler, None))
    if name == "DDIM Sampler":
        same(found, euler, "the path of euler")
    else:
        assert torch.equal(found, again), "the same seed draws something else"
        different(found, euler, "the noise")


def _run(scene, guider, rows, sampler):
    import comfy.samplers

    sampler = sampler or comfy.samplers.sampler_object("euler")
    noise = seeded(1, 3, 32, 32, seed=4)
    with torch.inference_mode():
        built = guider.build(scene, scene.models, rows, SCALE)
        return built.sample(noise, picture(), sampler, LEVELS, disable_pbar=True, seed=1)


# --- chains


def _patched_base(scene, patch, base):
    return patch.apply(scene, base)


def in_chain(scene, name, chain_name):
    """Two samplers one after the other are one run. A second that remembers nothing of the first says so."""
    part, whole = CHAINS[chain_name]
    patch = {**PATCHES, **IN_CHAINS}[name]
    base = scene.flow if name == "CFG Patch, zero_init" else scene.models["main"]
    model = scene.once(_patched_base, patch, base)
    expected = scene.once(whole, model)
    different(expected, scene.once(whole, base), "the patch")
    with warned() as words:
        found = part(scene, model)
    if patch.memory and distance(found, expected) > APART:
        assert len(words) == 1 and words[0].startswith(patch.memory), f"other than one run, and the log says {words}"
        raise SaidError(words[0])
    same(found, expected, "one run")


def sampler_in_chain(scene, name):
    options = {"eta": 0.5} if name == "DDIM Sampler" else {}
    (sampler,) = scene.execute(f"Guidance_{name.replace(' ', '')}", clip_denoised=False, **options)
    model = scene.models["main"]
    same(split(scene, model, sampler), split(scene, model, sampler, parts=1), "one run")


# --- the tables


SOLE = [name for name in GUIDERS if "patch on" not in name]  # without those that only say where a patch is


def cells():
    """(table, row, column) -> its check, of a Scene."""
    found = {}
    for patch in PATCHES:
        for guider in GUIDERS:
            found["guiders", patch, guider] = partial(together, patch_name=patch, guider_name=guider, node_name=None)
    for sampler in SAMPLERS:
        for guider in SOLE:
            found["guiders", sampler, guider] = partial(sampler_under, name=sampler, guider_name=guider)
    for patch in (None, *PATCHES):
        for node in NODES:
            row = patch or "no patch"
            found["conditioning", row, node] = partial(
                together, patch_name=patch, guider_name="CFGGuider", node_name=node
            )
    for guider in SOLE:
        for node in NODES:
            found["rows", guider, node] = partial(together, patch_name=None, guider_name=guider, node_name=node)
    for node in NODES:
        if NODES[node].partial is not None:
            found["rows", "CFG Combiner, a further condition", node] = partial(further, node_name=node)
    for name in (*PATCHES, *IN_CHAINS):
        for chain in CHAINS:
            found["chains", name, chain] = partial(in_chain, name=name, chain_name=chain)
    for sampler in SAMPLERS:
        found["chains", sampler, "SplitSigmas"] = partial(sampler_in_chain, name=sampler)
    return found
