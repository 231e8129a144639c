"""Every word of every node stands in every language, and none that is gone."""

import json
import os
import re

import pytest
from locale_words import FILES, LOCALES, at, english, keys, read

pytestmark = pytest.mark.host
LANGUAGES = sorted(folder.name for folder in LOCALES.iterdir() if folder.is_dir() and folder.name != "en")
CHINESE = re.compile("[\u4e00-\u9fff]")


@pytest.fixture(scope="module")
def words(pack_nodes):
    found = english(pack_nodes)
    if os.environ.get("GUIDANCE_RECORD_LOCALES"):
        for file in FILES:
            text = json.dumps(found[file], indent=1, ensure_ascii=False) + "\n"
            (LOCALES / "en" / f"{file}.json").write_text(text, "utf-8")
    return found


@pytest.mark.parametrize("file", FILES)
def test_the_english_files_are_the_schemas(words, file):
    assert read("en", file) == words[file], "write them anew: python dev.py locales"


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("language", LANGUAGES)
def test_no_key_is_missing_or_stale(words, language, file):
    here, wanted = keys(read(language, file)), keys(words[file])
    missing = {path: at(words[file], path) for path in sorted(wanted - here)}
    stale = sorted(here - wanted)
    told = json.dumps({"missing, with its English": missing, "stale": stale}, indent=1, ensure_ascii=False)
    assert not missing and not stale, f"locales/{language}/{file}.json\n{told}"


def test_chinese_is_chinese():
    """Names of symbols (phi, eta) and of formats (json) stay; sentences are translated."""
    tree = read("zh", "nodeDefs")
    sentences = [path for path in keys(tree) if path.endswith(("tooltip", "description", "display_name"))]
    assert [path for path in sentences if not CHINESE.search(at(tree, path))] == []


@pytest.mark.parametrize("language", ["en", *LANGUAGES])
def test_names_hold_nothing_that_the_frontend_would_read_as_code(language):
    """Its messages know {name}, @:link and plural | forms; tooltips are shown as they are."""
    tree = read(language, "nodeDefs")
    names = [path for path in keys(tree) if not path.endswith("tooltip")]
    assert [path for path in names if re.search("[{}@|]", at(tree, path))] == []
