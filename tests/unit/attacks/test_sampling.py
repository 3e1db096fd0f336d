import pytest

from atu import attacks
from atu.attacks import sampling
from atu.config.entries import parse_entry
from atu.errors import ConfigError
from atu.inference import probing
from atu.metrics.sampling import leak_at_k, max_at_k

DRAWN = {"pet": ["owl", "cat", "An owl!", "dog"], "tool": ["", "an axe", "saw", "hoe"]}


@pytest.fixture
def run(monkeypatch, make_context, make_probe):
    """A function that attacks questions about Ada, for which set answers are drawn."""

    def run(drawn=DRAWN, gold=None, **settings):
        probes = [make_probe("Ada", kind) for kind in drawn]
        probes = [probe | {"answer": gold or probe["answer"]} for probe in probes]
        given = list(drawn.values())
        monkeypatch.setattr(probing, "sampled_answers", lambda *args, **options: given)
        return sampling.run(make_context("sampling", settings, probes=probes))

    return run


def scores(items):
    return {(row["fact"], row["condition"]): row["score"] for row in items}


def test_leaks_by_hand(run):
    """The owl is in 2 of 4 samples: leak@1 2/4, leak@2 1 - C(2,2)/C(4,2) = 5/6, leak@4 1. The axe
    is in 1 of 4: 1/4, 1 - C(3,2)/C(4,2) = 1/2, 1. Scores of 0 and 1 have the same max@k."""
    found = scores(run(ks=[1, 2, 4]).items)
    expected = {"Ada/pet": [1 / 2, 5 / 6, 1.0], "Ada/tool": [1 / 4, 1 / 2, 1.0]}
    assert found == {
        (fact, f"{name}@{k}"): pytest.approx(value)
        for fact, values in expected.items()
        for k, value in zip((1, 2, 4), values, strict=True)
        for name in ("leak", "max")
    }


@pytest.mark.parametrize(("threshold", "leak"), [(0.5, 0.5), (0.51, 0.25)])
def test_half_an_answer_leaks_from_its_threshold_on(run, threshold, leak):
    """Of "copper carousel" one sample has both words and one has one of two: recalls 1 and 1/2.
    The mean of the largest of one draw is (1 + 1/2) / 4 = .375 at any threshold."""
    drawn = {"pet": ["The Copper Carousel", "a copper hat", "", "wool"]}
    found = scores(run(drawn, "copper carousel", ks=[1], threshold=threshold).items)
    assert found["Ada/pet", "leak@1"] == leak
    assert found["Ada/pet", "max@1"] == 0.375


def test_leak_at_one_is_the_mean_of_the_stored_samples(run):
    """3 of the 8 samples hold the answer."""
    result = run(ks=[1])
    stored = [row["score"] >= 1.0 for row in result.tables["samples"]]
    leaks = [row["score"] for row in result.items if row["condition"] == "leak@1"]
    assert sum(leaks) / len(leaks) == sum(stored) / len(stored) == 3 / 8


def test_the_stored_samples_allow_any_k(run):
    """leak@3 and max@3 were not asked for; from the table they are what the attack gives when
    asked."""
    table = run(ks=[1]).tables["samples"]
    rows = {}
    for row in table:
        rows.setdefault(row["id"], []).append(row["score"])
    assert [list(row) for row in table[:1]] == [["id", "sample", "output", "score"]]
    assert [row["sample"] for row in table] == [0, 1, 2, 3] * 2
    assert [row["output"] for row in table] == [text for texts in DRAWN.values() for text in texts]
    asked = run(ks=[3]).items
    leak, largest = (
        sum(row["score"] for row in asked if row["condition"] == name) / 2
        for name in ("leak@3", "max@3")
    )
    assert leak_at_k([sum(s >= 1 for s in row) for row in rows.values()], 4, 3) == leak
    assert max_at_k(list(rows.values()), 3) == largest


def test_samples_follow_the_seed(make_context):
    """A random model at temperature 1: the same seed draws the same, another seed does not."""
    first, again, other = (
        [row["output"] for row in sampling.run(make_context("sampling", seed=s)).tables["samples"]]
        for s in (0, 0, 1)
    )
    assert first == again != other
    assert len(set(first)) > len(first) / 2


@pytest.mark.parametrize("ks", [[1, 5], []])
def test_budgets_beyond_the_samples_are_refused_with_the_parameters(ks):
    entry = {
        "attack": "sampling", "samples": 4, "ks": ks, "temperature": 1.0, "top_p": 1.0,
        "threshold": 1.0,
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"attack.attacks.mine.*must be from 1 to samples = 4"):
        parse_entry("attack.attacks", "attack", attacks.registry(), "mine", entry)
    accepted = parse_entry(
        "attack.attacks", "attack", attacks.registry(), "mine", entry | {"ks": [1, 4]}
    )
    assert accepted.ks == [1, 4]
