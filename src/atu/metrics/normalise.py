"""Texts as answers are compared."""

from __future__ import annotations

import re
import string
import unicodedata

_EDGE = string.punctuation + string.whitespace


def normalise(text: str) -> str:
    """Unicode NFKC, lower case, single spaces, no leading article, no punctuation at the edges."""
    text = unicodedata.normalize("NFKC", text).lower()
    text = re.sub(r"\s+", " ", text).strip(_EDGE)
    return re.sub(r"^(the|a|an) ", "", text).strip(_EDGE)
