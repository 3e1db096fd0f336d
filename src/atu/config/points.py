"""Every method of a comparison is observed equally often: who chooses among more points of its
course finds a better one by chance alone.
"""

from __future__ import annotations

from atu import methods
from atu.config.params import Params
from atu.config.spaces import ends, space_of, with_values
from atu.errors import ConfigError


def check_points(params: Params) -> None:
    """Refuse a comparison, which is a grid with searched settings, whose methods keep the best of
    different numbers of points. Methods without a course (`Method.observed`) are exempt.

    Raises:
        ConfigError: names every method with its number.
    """
    if params.unlearn.keep != "best" or not params.search.spaces:
        return
    counts = {method: point_counts(params, method) for method in params.grid.methods}
    if len(set().union(*counts.values())) > 1:
        told = (f"{m} {' or '.join(map(str, sorted(n)))}" for m, n in counts.items() if n)
        raise ConfigError(
            "unlearn.methods", ", ".join(told), "with `keep: best` all methods of a comparison "
            "must be observed at the same number of points; give them the same `evaluations`, no "
            "more than their steps, and a method with `alphas` as many of them"
        )  # fmt: skip


def point_counts(params: Params, method: str) -> set[int]:
    """At how many points the method is observed, by its entry and by every end or choice of its
    search space; empty where it has no course.
    """
    entry = params.section("unlearn", method)["methods"][method]
    searched = method in params.search.spaces
    space = space_of(params.search, method, entry) if searched else {}
    changes = [{}, *({key: value} for key, values in space.items() for value in ends(values))]
    settings = [with_values(method, entry, change) for change in changes]
    counts = (methods.get(s.loss).observed(s, params.unlearn.compat(s)) for s in settings)
    return {count for count in counts if count is not None}
