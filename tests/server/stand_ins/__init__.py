"""Nodes of the server under test alone: small models and towers where a workflow loads the host's large ones."""

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


class SmallZImage(StandIn):
    """Z-Image by the host's class for it, at tiny width: its loader knows the full width alone."""

    RETURN_TYPES = ("MODEL",)

    def load(self):
        from families.build import built

        return (built("ZImage").model,)


NODE_CLASS_MAPPINGS = {kind.__name__: kind for kind in (SmallCLIP, SmallT5, SmallCLIPVision, SmallZImage)}
