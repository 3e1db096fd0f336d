"""Strict YAML: the subset that parameter files may use.

Built on PyYAML's safe loader. The node graph is checked before anything is constructed from it:
multiplying aliases, cycles, duplicate keys, dates, binaries, unbounded numbers.
"""

from __future__ import annotations

from typing import Any

import yaml

from atu.errors import shown
from atu.untrusted.texts import REORDERING, UNPRINTABLE

MAX_DEPTH = 32
MAX_NODES = 100_000
"""Maximum values in a file; those of an alias count each time it is used."""
MAX_DIGITS = 64
_PREFIX = "tag:yaml.org,2002:"
_SCALARS = {"str", "int", "float", "bool", "null", "merge"}


class _Loader(yaml.SafeLoader):
    """The safe loader with a depth limit below Python's."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(
                None, None, f"nested deeper than {MAX_DEPTH} levels", mark
            )
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def parse_yaml(text: str) -> Any:
    """Mappings with distinct text keys, lists, texts, floats, integers of 64 bits, booleans, nulls.

    Raises:
        ValueError: anything else, with its line.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _Check(loader).size(node)
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(f"is not YAML: {' '.join(str(error).split())}") from None


class _Check:
    """Walks a node graph, visiting each node once however often it is used."""

    def __init__(self, loader: _Loader) -> None:
        self.loader = loader
        self.sizes: dict[int, int] = {}
        self.open: set[int] = set()

    def size(self, node: yaml.Node) -> int:
        """The number of values that the node expands to, including itself.

        Raises:
            ValueError: a value, a key or their number is not allowed.
        """
        key = id(node)
        if key in self.open:
            raise _refusal(node, "refers to itself")
        if key not in self.sizes:
            self.open.add(key)
            self.sizes[key] = 1 + sum(map(self.size, self._children(node)))
            self.open.remove(key)
        if self.sizes[key] > MAX_NODES:
            raise _refusal(node, f"expands to more than {MAX_NODES} values with its aliases")
        return self.sizes[key]

    def _children(self, node: yaml.Node) -> list[yaml.Node]:
        kind = node.tag.removeprefix(_PREFIX)
        if isinstance(node, yaml.ScalarNode) and kind in _SCALARS:
            self._check_scalar(node, kind)
            return []
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return node.value
        if isinstance(node, yaml.MappingNode) and kind == "map":
            _check_keys(node)
            return [part for pair in node.value for part in pair]
        raise _refusal(
            node, f"is a {kind.lstrip('!')}, which no parameter can be; quote it to get a text"
        )

    def _check_scalar(self, node: yaml.ScalarNode, kind: str) -> None:
        if UNPRINTABLE.search(node.value) or REORDERING.search(node.value):
            raise _refusal(node, f"{shown(node.value)} has control characters")
        if kind not in ("int", "float", "bool"):
            return
        if len(node.value) > MAX_DIGITS:
            raise _refusal(node, f"is a number of {len(node.value)} characters")
        try:
            value = self.loader.construct_object(node)
        except (ValueError, KeyError, IndexError):
            raise _refusal(node, f"{shown(node.value)} is not a valid {kind}") from None
        if kind == "int" and not -(2**63) <= value < 2**63:
            raise _refusal(node, f"{shown(node.value)} has more than 64 bits")


def _check_keys(node: yaml.MappingNode) -> None:
    seen = set()
    for key, _ in node.value:
        kind = key.tag.removeprefix(_PREFIX)
        if kind not in ("str", "merge"):
            raise _refusal(key, f"the key is a {kind}, not a text; put it in quotes")
        if kind == "str" and key.value in seen:
            raise _refusal(key, f"the key {shown(key.value)} occurs twice; remove one")
        seen.add(key.value)


def _refusal(node: yaml.Node, reason: str) -> ValueError:
    return ValueError(f"line {node.start_mark.line + 1}: {reason}")
