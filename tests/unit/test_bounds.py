import subprocess
import sys
from typing import Annotated

import pytest
from pydantic import TypeAdapter, ValidationError

from atu.bounds import Bounds, Cosine, Count, CountOrZero, Fraction, NonNegative, Positive

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


def test_loads_without_pydantic():
    """The training core runs where pydantic is not installed."""
    code = "import sys, atu.bounds; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
