"""The forwards of the two networks of kwonminki/Asyrp_official."""

import golden_files
import pytest
from asyrp_golden import CASES, network


@pytest.mark.parametrize("case", CASES)
def test_the_forward_is_the_published_one(case):
    arguments, golden = golden_files.load(case)
    eps = network(arguments)(golden["forward.x"], golden["forward.t"])
    assert golden_files.relative_error(eps, golden["forward.eps"]) < 1e-4


@pytest.mark.parametrize("case", CASES)
def test_the_bottleneck_callable_sees_the_published_h(case):
    arguments, golden = golden_files.load(case)
    seen = []

    def look(h, emb):
        seen.append(h)
        return h

    eps = network(arguments)(golden["forward.x"], golden["forward.t"], edit_h=look)
    assert golden_files.relative_error(seen[0], golden["forward.middle_h"]) < 1e-4
    assert golden_files.relative_error(eps, golden["forward.eps"]) < 1e-4
