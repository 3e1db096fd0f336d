"""What a run holds, and under which names MLflow shows it."""

import dataclasses

import pytest

from atu.metrics.registry import registry
from atu.tracking.records import HEADLINE, RunRecord, flatten, metric_name


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, []),
        ({"a": {"b": {"c": 1}}, "d": "x"}, [("a.b.c", "1"), ("d", "x")]),
        ({"a": [1, 2], "b": None, "c": True}, [("a", "[1, 2]"), ("b", "null"), ("c", "true")]),
        ({"rate": 0.001, "empty": {}}, [("rate", "0.001")]),
        ({"a": "x\u202ey\x00"}, [("a", r"x\u202ey\x00")]),
        ({"a": ["\u2028"]}, [("a", r'["\u2028"]')]),
    ],
)
def test_flatten(values, expected):
    """Keys joined by dots, strings as they are but for hidden characters, everything else as
    JSON."""
    assert list(flatten(values)) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rephrase/target_question/report", "rephrase/target_question"),
        ("unlearn/step/select", "unlearn/step select"),
        ("unlearn.trace/loss", "unlearn.trace/loss"),
        ("trajectory/worst form", "trajectory/worst form"),
        ("2 worst form", "2 worst form"),
        ("cosine_quantile_0.5", "cosine_quantile_0.5"),
        ("a b-c", "a b-c"),
        ("a:b=c,d", "a_b_c_d"),
        (
            "report/m.ga.target.exact_match@own-2/report",
            "report/m.ga.target.exact_match_own-2",
        ),
        ("attack/lens.layer 2: cosine/report", "attack/lens.layer 2_ cosine"),
    ],
)
def test_metric_name(name, expected):
    """One group per phase, as MLflow groups by what stands before the last `/`."""
    assert metric_name(name) == expected


def test_no_two_metrics_share_a_name_in_mlflow():
    """An id's `@` is replaced; the store refuses the same key twice."""
    ids = list(registry())
    assert len({metric_name(name) for name in ids}) == len(ids) > 40


def test_headlines_sort_first_and_in_their_order():
    """Before every phase, however it is spelled."""
    names = list(HEADLINE.values())
    assert sorted([*names, "align/x", "Zebra", "attack/y"])[: len(names)] == names


def record(**own):
    values = {"params": {"seed": "0"}, "metrics": {"unlearn/step/select": 4.0}}
    return RunRecord("m/Ada/ga/0", "GA", **(values | own))


def test_the_digest_is_of_what_is_shown(tmp_path):
    """Every part of it counts, files by their content; where they lie does not, nor do the labels,
    which depend on the other runs."""
    for name, text in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "figure.png").write_text(text)
    figures = [record(files=[tmp_path / name / "figure.png"]).digest for name in "abc"]
    items = [record(items=tmp_path / name / "figure.png").digest for name in "abc"]
    assert figures[0] == figures[1] != figures[2] and items[0] == items[1] != items[2]
    changes = [
        {}, {"params": {"seed": "1"}}, {"metrics": {}}, {"cell": "m/Ada/ga/1"},
        {"curves": [("unlearn.trace/loss", 1, 1.0)]},
    ]  # fmt: skip
    digests = [dataclasses.replace(record(), **change).digest for change in changes]
    assert len({*digests, *figures, *items}) == 9
    labels = record(description="x", colour="#000000")
    assert dataclasses.replace(labels, name="other").digest == record().digest
