"""The table of what works with what: our patches, the host's guiders, its conditioning nodes, chains of samplers.

Everything is built with nodes, on the pack's own pixel model. A guider is a formula over the predictions of its rows,
and a conditioning node one over predictions of plain CONDITIONING, so what they should give together can be computed
from BasicGuider alone.
"""
