"""Every hostile file at every loader, `convert` and `--resume`: nothing runs, no lie is taken, words are clear.

The fast part tries each file where it is meant to do harm; `dev.py test --hostile` tries all of them everywhere.
"""

import shutil
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from conftest import run_node

from . import archives, claims, headers, latents
from .case import CONVERT, READERS
from .measure import outcome, readers, summary
from .pickles import EVIL

pytestmark = pytest.mark.host
FAMILIES = {
    "headers": lambda room: headers.cases(),
    "claims": lambda room: claims.cases(),
    "latents": lambda room: latents.cases(),
    "archives": lambda room: archives.cases(room.ran, room.secret),
}
EVERYTHING = 880


@dataclass
class Room:
    """A folder where all loaders look, and what a file would leave or read if it did harm."""

    folder: Path
    ran: Path
    secret: Path
    readers: dict

    def tried(self, case, reader):
        path = self.folder / "hostile.safetensors"
        case.write(path)
        try:
            return outcome(case, reader, self.readers[reader], path, self.ran)
        finally:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@pytest.fixture(scope="module")
def room(pack_nodes, tmp_path_factory):
    import folder_paths

    base = tmp_path_factory.mktemp("hostile")
    ran, secret, folder = base / "ran", base / "secret", base / "models"
    folder.mkdir()
    secret.write_text("root:x:0:0")
    for name, last in (("evil", ""), ("evil_on_import", "\nrun()\nanything = 1\n")):
        (base / f"{name}.py").write_text(EVIL.format(ran=str(ran)) + last)
    sys.path.insert(0, str(base))
    kinds = [
        f"guidance_{kind}"
        for kind in ("models", "classifiers", "encoders", "matchers", "priors", "scorers", "directions")
    ]
    for kind in kinds:
        folder_paths.add_model_folder_path(kind, str(folder))
    yield Room(folder, ran, secret, readers(partial(run_node, pack_nodes)))
    sys.path.remove(str(base))
    for kind in kinds:
        folder_paths.folder_names_and_paths[kind][0].remove(str(folder))


def test_there_are_enough_files_and_each_has_a_name_of_its_own(room):
    names = [case.name for family in FAMILIES.values() for case in family(room)]
    assert len(names) >= EVERYTHING and not {name for name in names if names.count(name) > 1}


@pytest.mark.parametrize("family", FAMILIES)
def test_each_file_is_refused_where_it_is_meant_to_do_harm(room, family):
    found = [room.tried(case, case.home) for case in FAMILIES[family](room)]
    if family == "archives":
        found += [room.tried(case, CONVERT) for case in FAMILIES[family](room) if case.name.startswith(("code", "lie"))]
    faults = "\n".join(str(one) for one in found if one.faults)
    assert not faults, faults


CONTROLS = [*claims.controls(), archives.control(), latents.control()]


@pytest.mark.parametrize("case", CONTROLS, ids=lambda case: case.name)
def test_the_same_files_without_a_lie_load(room, case):
    assert room.tried(case, case.home).said == ""


@pytest.mark.hostile
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("reader", READERS)
def test_each_file_is_refused_by_every_reader(room, capsys, reader):
    found = [room.tried(case, reader) for family in FAMILIES.values() for case in family(room)]
    with capsys.disabled():
        sys.stdout.write(f"\n{reader}: {summary(found)}\n")
    faults = "\n".join(str(one) for one in found if one.faults)
    assert not faults, faults
