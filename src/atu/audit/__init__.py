"""Auditing a checkpoint that somebody else unlearned."""
