"""Retain terms for tests."""

NO_RETAIN = {
    "nll": 0.0, "kl": 0.0, "states": 0.0, "layer": None, "distance": "squared", "neighbours": 0.0,
}  # fmt: skip
"""A retain term in which everything is off."""
