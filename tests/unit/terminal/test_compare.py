"""Two methods item by item, of what both have finished."""

import shutil

import pytest

from atu.errors import ArtifactError, ConfigError
from atu.metrics.bootstrap import Estimate
from atu.terminal.compare import comparison, print_comparison
from atu.terminal.printing import plain


@pytest.fixture
def params(make_params):
    """A function that gives the parameters of the made cells' grid."""

    def make(**grid):
        methods = ["none", "oracle", "ga", "npo"]
        return make_params(grid={"models": ["m"], "methods": methods} | grid)

    return make


@pytest.fixture
def cells(world, ga_leaks):
    """The original answers all, GA as in tests/unit/reporting; two seeds of each."""
    for seed in (0, 1):
        world("none", seed)
        results = world("ga", seed, leaks=ga_leaks)
    return results


def shown(found, capsys, monkeypatch):
    """What is printed in 80 columns, line by line."""
    monkeypatch.setenv("COLUMNS", "80")
    print_comparison(found)
    text = capsys.readouterr().out
    assert "\x1b" not in text and max(map(len, text.splitlines())) <= 80
    return text.splitlines()


def test_the_differences_are_the_reports(cells, params, capsys, monkeypatch):
    """The original minus GA, of two facts in two seeds: +1 of the target's questions, +.5 of the
    worst forms, +.5 of the neighbours, 0 of others."""
    found = comparison(params(seeds=[0, 1]), cells, "none", "ga")
    (row,) = found.rows
    assert {key: row[key].mean for key in row if isinstance(row[key], Estimate)} == {
        "target": 1.0, "worst_form": 0.5, "neighbour": 0.5, "other": 0.0,
    }  # fmt: skip
    assert (found.cells, found.planned, found.targets) == (2, 2, 1)
    lines = shown(found, capsys, monkeypatch)
    words = [line.split() for line in lines]
    assert ["target", "questions", "+1.00", "[+1.00,", "+1.00]", "4", "leaks", "more"] in words
    assert ["neighbours", "+0.50", "[+0.00,", "+1.00]", "4", "no", "difference"] in words
    assert "draw facts, as there is one target" in " ".join(lines)


def test_only_what_both_have_finished_is_compared(cells, params, capsys, monkeypatch):
    """Of two seeds GA has one."""
    shutil.rmtree(cells / "rephrase/m/Ada/ga/1")
    found = comparison(params(seeds=[0, 1]), cells, "none", "ga")
    assert (found.cells, found.planned, found.rows[0]["target"].n) == (1, 2, 2)
    assert "1 of 2 models, targets and seeds are finished for both" in " ".join(
        shown(found, capsys, monkeypatch)
    )


def test_several_targets_are_the_clusters(world, params, capsys, monkeypatch):
    for target in ("Ada", "Eve"):
        world("none", target=target)
        results = world("ga", target=target, leaks=set())
    found = comparison(params(targets=["Ada", "Eve"], seeds=[0]), results, "none", "ga")
    assert (found.targets, found.rows[0]["target"].n) == (2, 4)
    assert "draw whole targets" in " ".join(shown(found, capsys, monkeypatch))


def test_their_distances_are_compared_where_the_oracle_has_finished(
    world, params, ga_leaks, capsys, monkeypatch
):
    """GA answers as the oracle does, the original all: 1 of the target's questions and half of the
    worst forms, where neither may answer less; in both targets. Without the oracle's utility in one
    of them it is said that there is none."""
    for target in ("Ada", "Eve"):
        world("none", target=target)
        for method in ("ga", "oracle"):
            results = world(method, target=target, leaks=ga_leaks)
    grid = params(targets=["Ada", "Eve"], seeds=[0])
    found = comparison(grid, results, "none", "ga")
    distance = found.rows[0]["distance"]
    assert 0 < distance.low <= distance.mean and found.rows[0]["distance_verdict"] == "worse"
    text = " ".join(shown(found, capsys, monkeypatch))
    assert f"distance to the oracle +{distance.mean:.3f}" in " ".join(text.split())
    assert "By distance none is of 2 targets by themselves nearer in 0, farther in" in text
    shutil.rmtree(results / "utility/m/Eve/oracle")
    found = comparison(grid, results, "none", "ga")
    assert "distance" not in found.rows[0]
    assert "No distance to the oracle" in " ".join(shown(found, capsys, monkeypatch))


def test_a_number_that_is_not_valid_has_no_verdict(world, params, make_item, capsys, monkeypatch):
    """One question was not scored: neither a mean nor a claim."""
    from atu.phases.rephrase import SCORES

    lost = make_item("Ada/job", **dict.fromkeys(SCORES, None))
    world("none", extra=[lost])
    found = comparison(params(seeds=[0]), world("ga", extra=[lost], leaks=set()), "none", "ga")
    words = [line.split() for line in shown(found, capsys, monkeypatch)]
    assert ["target", "questions", "INVALID", "2", "of", "3"] in words
    assert plain(found)["rows"][0]["target"]["mean"] is None


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ("gaa", "none", "A = 'gaa': not in grid.methods, which has none, oracle, ga, npo"),
        ("ga", "nono", "B = 'nono': not in grid.methods"),
        ("ga", "ga", "B = 'ga': is A; name another method"),
        ("ga", "none", "which comes first: `atu compare none ga`"),
    ],
)
def test_methods_that_make_no_comparison_are_refused(cells, params, first, second, says):
    with pytest.raises(ConfigError) as caught:
        comparison(params(seeds=[0]), cells, first, second)
    assert says in str(caught.value)


def test_a_method_that_has_not_finished_is_refused(cells, params):
    with pytest.raises(ArtifactError, match="ga and npo have no model, target and seed"):
        comparison(params(seeds=[0]), cells, "ga", "npo")


def test_cells_that_were_evaluated_differently_are_refused(cells, params):
    """GA's probes are others: nothing pairs them."""
    manifest = cells / "rephrase/m/Ada/ga/0/manifest.json"
    text = manifest.read_text(encoding="utf-8").replace('"prepare": "', '"prepare": "0')
    manifest.write_text(text, encoding="utf-8")
    with pytest.raises(ArtifactError, match="were evaluated differently"):
        comparison(params(seeds=[0]), cells, "none", "ga")
