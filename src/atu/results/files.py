"""JSON, JSONL and safetensors files of results: equal values give equal bytes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atu.errors import ArtifactError
from atu.untrusted.texts import MB, parse_json, read_text

if TYPE_CHECKING:
    from torch import Tensor

MAX_JSON = 1024 * MB


def write_whole(path: Path, text: str, encoding: str = "utf-8", errors: str = "strict") -> None:
    """Write a text file in place of what stands there, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding=encoding, errors=errors)
    partial.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys and no NaN: equal values give equal bytes."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        ArtifactError: it is larger than `MAX_JSON`, or `parse_json` refuses it.
    """
    try:
        return parse_json(read_text(path, MAX_JSON))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: cannot be read as JSON: {error}") from None


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write one JSON object per line, keys sorted."""
    lines = [json.dumps(row, sort_keys=True, ensure_ascii=False, allow_nan=False) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file.

    Raises:
        ArtifactError: as `read_json`, or a row is not an object.
    """
    try:
        lines = read_text(path, MAX_JSON).split("\n")
        rows = [parse_json(line) for line in lines if line]
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: cannot be read as JSONL: {error}") from None
    if not all(isinstance(row, dict) for row in rows):
        raise ArtifactError(f"{path}: a row is not a JSON object")
    return rows


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        ArtifactError: it is not one; the header's sizes, types and offsets are checked before use.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{path}: cannot be read as safetensors: {error}") from None


def sha256(path: Path) -> str:
    """The hex sha256 of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
