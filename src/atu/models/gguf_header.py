"""The header of a GGUF file: its metadata and where its tensors lie. Read with bounds, since anyone
may have written it: the libraries that read it later take every count in it at its word.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atu.errors import ArtifactError, shown
from atu.untrusted.texts import MB

SUFFIX = ".gguf"
MAGIC = b"GGUF"
VERSIONS = (2, 3)
SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
"""Codes of `struct` by GGUF's number of a type."""
STRING, ARRAY = 8, 9
MAX_KEYS, MAX_TENSORS = 10_000, 100_000
MAX_ELEMENTS = 3_000_000
"""Of all arrays together: Gemma's vocabulary of 262,144 with types, scores and merges is 1.3 M."""
MAX_STRING = 4 * MB
MAX_DIMENSIONS = 4
ALIGNMENT = 32
SHARD = re.compile(r"-\d{5}-of-(\d{5})\.gguf$", re.IGNORECASE)
COMPLETE = "download it again, or name the Hugging Face folder of the model it was made from"


def is_gguf(path: Path) -> bool:
    """Whether a path names a GGUF file, by its name."""
    return path.suffix.lower() == SUFFIX


def gguf_in(folder: Path) -> Path | None:
    """The GGUF file of a folder without safetensors; None if it holds none.

    Raises:
        ArtifactError: there are several.
    """
    found = sorted(path for path in folder.iterdir() if is_gguf(path))
    if not found or any(folder.glob("*.safetensors")):
        return None
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ArtifactError(f"{folder}: holds several GGUF files ({names}); name one of them")
    return found[0]


@dataclass(frozen=True)
class Tensor:
    """One tensor's shape, in torch's order, its type's number, and where its bytes lie."""

    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True)
class Header:
    """A file's metadata by key, and its tensors by name."""

    file: Path
    values: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture."""
        return str(self.values.get("general.architecture"))

    @property
    def tokens(self) -> list[str]:
        """The vocabulary, in the order of the ids."""
        return list(self.values["tokenizer.ggml.tokens"])

    def tokenizer(self, key: str, default: Any = None) -> Any:
        """A value of the tokenizer."""
        return self.values.get(f"tokenizer.ggml.{key}", default)


def read_header(file: Path) -> Header:
    """The header of a whole GGUF file with weights and a vocabulary.

    Raises:
        ArtifactError: it is none: names the file, what is wrong, and the repair.
    """
    if shard := SHARD.search(file.name):
        raise ArtifactError(
            f"{file}: is one of {int(shard[1])} parts; join them with llama.cpp's "
            "`llama-gguf-split --merge`, and name the whole"
        )
    try:
        with file.open("rb") as stream:
            if stream.read(4) != MAGIC:
                raise ValueError("does not begin with `GGUF`, so it is no GGUF file")
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(file, data).header()
    except OSError as error:
        raise ArtifactError(f"{file}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ArtifactError(f"{file}: {error}; {COMPLETE}") from None


class _Reader:
    """Reads on, from the beginning; no read goes past the end of the file."""

    def __init__(self, file: Path, data: mmap.mmap) -> None:
        self.file, self.data, self.at, self.elements = file, data, len(MAGIC), 0

    def header(self) -> Header:
        """All of it.

        Raises:
            ValueError: it is not well formed, or promises more than the file holds.
        """
        version = self._number("I")
        if version not in VERSIONS:
            raise ValueError(f"is of GGUF's version {version}; versions 2 and 3 are read")
        tensors, keys = self._number("Q"), self._number("Q")
        if keys > MAX_KEYS or tensors > MAX_TENSORS:
            raise ValueError(f"promises {keys} keys and {tensors} tensors, more than any model has")
        values: dict[str, Any] = {}
        for _ in range(keys):
            self._add(values, self._string(), self._value(self._number("I"), True), "key")
        found: dict[str, Tensor] = {}
        for _ in range(tensors):
            self._add(found, self._string(), self._tensor(), "tensor")
        self._require_bytes(found, values.get("general.alignment", ALIGNMENT))
        return Header(self.file, values, found)

    def _add(self, into: dict[str, Any], name: str, value: Any, what: str) -> None:
        if name in into:
            raise ValueError(f"has the {what} {shown(name)} twice")
        into[name] = value

    def _take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise ValueError(f"is truncated: its header ends after byte {len(self.data)}")
        self.at += size
        return self.data[self.at - size : self.at]

    def _number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self._take(struct.calcsize(f"<{code}")))[0]

    def _string(self) -> str:
        size = self._number("Q")
        if size > MAX_STRING:
            raise ValueError(f"has a text of {size} bytes at byte {self.at}, more than is read")
        return self._take(size).decode("utf-8")

    def _value(self, kind: int, arrays: bool) -> Any:
        if kind == STRING:
            return self._string()
        if kind in SCALARS:
            return self._number(SCALARS[kind])
        if kind == ARRAY and arrays:
            return self._array()
        raise ValueError(f"has a value of the unknown type {kind} at byte {self.at}")

    def _array(self) -> list[Any]:
        kind, count = self._number("I"), self._number("Q")
        self.elements += count
        if self.elements > MAX_ELEMENTS:
            raise ValueError(f"has an array of {count} values at byte {self.at}, more than is read")
        if kind in SCALARS:
            code = f"<{count}{SCALARS[kind]}"
            return list(struct.unpack(code, self._take(struct.calcsize(code))))
        return [self._value(kind, False) for _ in range(count)]

    def _tensor(self) -> Tensor:
        dimensions = self._number("I")
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise ValueError(f"has a tensor of {dimensions} dimensions at byte {self.at}")
        shape = tuple(self._number("Q") for _ in range(dimensions))
        return Tensor(shape[::-1], self._number("I"), self._number("Q"))

    def _require_bytes(self, tensors: dict[str, Tensor], alignment: Any) -> None:
        """Refuse a file that ends before its tensors do."""
        from gguf import GGML_QUANT_SIZES

        if type(alignment) is not int or not 0 < alignment <= MB or alignment & (alignment - 1):
            raise ValueError(f"has the alignment {shown(alignment)}, which is no power of two")
        start = math.ceil(self.at / alignment) * alignment
        sizes = {int(kind): size for kind, size in GGML_QUANT_SIZES.items()}
        for name, tensor in tensors.items():
            if tensor.kind not in sizes:
                raise ValueError(f"has a tensor of the unknown type {tensor.kind}: {shown(name)}")
            block, size = sizes[tensor.kind]
            if tensor.shape[-1] % block:
                raise ValueError(f"has a tensor of {tensor.shape}, no multiple of {block}")
            end = start + tensor.offset + math.prod(tensor.shape) // block * size
            if end > len(self.data):
                raise ValueError(
                    f"is truncated: it has {len(self.data)} bytes, and the tensor {shown(name)} "
                    f"ends at byte {end}"
                )
