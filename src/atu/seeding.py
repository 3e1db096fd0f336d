"""Named random streams: every draw in the project comes from a child of one seed."""

from __future__ import annotations

import hashlib

import numpy as np


def child_seed(seed: int, *names: str) -> int:
    """A 63-bit seed for the stream `names` of `seed`.

    Hashing the path, not counting calls, keeps every stream what it was when another is added.
    """
    path = "/".join((str(seed), *names)).encode()
    return int.from_bytes(hashlib.sha256(path).digest()[:8], "big") >> 1


def generator(seed: int, *names: str) -> np.random.Generator:
    """A numpy generator for the stream `names` of `seed`."""
    return np.random.default_rng(child_seed(seed, *names))


def hash_fraction(*parts: str) -> float:
    """A number in [0, 1) that depends on `parts` alone: stable membership without a seed."""
    digest = hashlib.sha256("\x1f".join(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
