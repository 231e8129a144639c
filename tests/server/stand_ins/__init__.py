"""Nodes of the server under test alone: small text and vision towers where a workflow loads the host's large ones."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))


class StandIn:
    """One of the seeded networks of `tests.networks`."""

    FUNCTION, CATEGORY, NAME = "load", "tests", ""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802  the host calls it
        return {"required": {}}

    def load(self):
        from networks import Networks

        return (getattr(Networks(None), self.NAME),)


class SmallCLIP(StandIn):
    RETURN_TYPES, NAME = ("CLIP",), "clip"


class SmallT5(StandIn):
    RETURN_TYPES, NAME = ("CLIP",), "t5"


class SmallCLIPVision(StandIn):
    RETURN_TYPES, NAME = ("CLIP_VISION",), "clip_vision"


NODE_CLASS_MAPPINGS = {"SmallCLIP": SmallCLIP, "SmallT5": SmallT5, "SmallCLIPVision": SmallCLIPVision}
