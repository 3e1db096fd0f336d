"""Align-then-Unlearn as a reproducible research pipeline."""
