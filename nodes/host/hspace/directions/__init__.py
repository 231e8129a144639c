"""Directions of h found by looking, and by training."""
