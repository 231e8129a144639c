"""Edits of the bottleneck."""

from .edit import Edit, direction_edit, network_edit

__all__ = ["Edit", "direction_edit", "network_edit"]
