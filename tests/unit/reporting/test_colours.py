"""One colour per method."""

from atu.reporting.colours import COLOURS, REFERENCE_COLOURS, method_colours


def test_methods_have_their_colours_in_the_grids_order():
    """A method's many cells share it; the original and the oracle are grey and take none."""
    found = method_colours(["none", "ga", "oracle", "npo", "ga"])
    assert found == REFERENCE_COLOURS | {"ga": COLOURS[0], "npo": COLOURS[1]}


def test_with_more_methods_than_colours_some_share_one():
    """And no method is without."""
    found = method_colours(map(str, range(len(COLOURS) + 1)))
    assert found[str(len(COLOURS))] == found["0"] == COLOURS[0]
