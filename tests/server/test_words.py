"""The host hands words, help and its pictures to the frontend, at the addresses where it looks."""

import json

import pytest

pytestmark = pytest.mark.server
DOCS = "/extensions/diffusion-guidance/docs"


def test_the_words_of_both_languages_are_served(server):
    words = json.loads(server.get("/api/i18n"))
    assert words["en"]["nodeDefs"]["Guidance_StyleGuide"]["display_name"] == "Style Guide"
    chinese = words["zh"]["nodeDefs"]["Guidance_StyleGuide"]
    assert chinese["display_name"] == "风格引导" and chinese["inputs"]["weight"]["name"] == "权重"
    assert words["zh"]["nodeCategories"]["h-space"] == "语义隐空间"


@pytest.mark.parametrize("page", ["Guidance_StyleGuide/en.md", "Guidance_StyleGuide/zh.md", "Guidance_StyleGuide.md"])
def test_help_and_its_picture_are_served(server, page):
    text = server.get(f"{DOCS}/{page}").decode()
    picture = text.split("](")[1].split(")")[0]
    assert server.get(f"{DOCS}/{picture}")[:2] == b"\xff\xd8"  # a JPEG
