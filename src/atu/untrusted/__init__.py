"""Readers of untrusted input: within limits, or refused with a reason."""
