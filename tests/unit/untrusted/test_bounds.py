import subprocess
import sys
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
from pydantic import TypeAdapter, ValidationError

from atu.untrusted.bounds import (
    STRICT,
    Bounds,
    Cosine,
    Count,
    CountOrZero,
    Fraction,
    NonNegative,
    OneOf,
    Positive,
)

EDGES = [
    (Positive, [1e-9, 5.0], [0.0, -1.0]),
    (NonNegative, [0.0, 5.0], [-1e-9]),
    (Fraction, [0.0, 0.5, 1.0], [-1e-9, 1.000001]),
    (Cosine, [-1.0, 0.0, 1.0], [-1.000001, 1.000001]),
    (Count, [1, 7], [0, -1]),
    (CountOrZero, [0, 7], [-1]),
    (Annotated[float, Bounds(ge=0, lt=1)], [0.0, 0.999], [1.0, -0.1]),
]


@pytest.mark.parametrize(("kind", "inside", "outside"), EDGES)
def test_edges(kind, inside, outside):
    """Every kind accepts its edge values and refuses the values just beyond them, and NaN."""
    adapter = TypeAdapter(kind)
    assert [adapter.validate_python(value) for value in inside] == inside
    for value in [*outside, float("nan")]:
        with pytest.raises(ValidationError):
            adapter.validate_python(value)


def test_limits_enter_the_json_schema():
    schema = TypeAdapter(Annotated[float, Bounds(gt=0, le=1)]).json_schema()
    assert schema == {"type": "number", "exclusiveMinimum": 0, "maximum": 1}


@dataclass(frozen=True)
class Circle:
    """Known by its radius."""

    __pydantic_config__ = STRICT
    shape: Literal["circle"]
    radius: Count


@dataclass(frozen=True)
class Dot:
    """Without a size."""

    __pydantic_config__ = STRICT
    shape: Literal["dot"]


Shape = Annotated[Circle | Dot, OneOf("shape")]


def test_classes_are_told_apart_by_a_key():
    adapter = TypeAdapter(Shape)
    assert adapter.validate_json('{"shape": "dot"}') == Dot("dot")
    assert adapter.validate_json('{"shape": "circle", "radius": 2}') == Circle("circle", 2)
    assert adapter.validate_python(Dot("dot")) == Dot("dot")


@pytest.mark.parametrize(
    ("value", "loc", "kind"),
    [
        ('{"shape": "dot", "radius": 2}', ("[dot]", "radius"), "unexpected_keyword_argument"),
        ('{"shape": "circle", "radius": 0}', ("[circle]", "radius"), "greater_than_equal"),
        ('{"shape": "line"}', (), "no_kind"),
        ('{"shape": ["dot"]}', (), "no_kind"),
        ("{}", (), "no_kind"),
        ('"dot"', (), "no_kind"),
    ],
)
def test_the_error_is_that_of_the_class_meant(value, loc, kind):
    """One error, of the class that the key names, or that it names none."""
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Shape).validate_json(value)
    assert [(e["loc"], e["type"]) for e in caught.value.errors()] == [(loc, kind)]
    if kind == "no_kind":
        assert caught.value.errors()[0]["msg"] == "needs the key `shape`, one of circle, dot"


def test_every_class_enters_the_json_schema():
    schema = TypeAdapter(Shape).json_schema()
    assert [entry["$ref"].split("/")[-1] for entry in schema["oneOf"]] == ["Circle", "Dot"]


def test_loads_without_pydantic():
    """The training core runs where pydantic is not installed."""
    code = "import sys, atu.untrusted.bounds; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
