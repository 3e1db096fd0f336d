import pytest

from atu.attacks import context as module
from atu.attacks.context import choose_sentences, sentences_of, unrelated_sentences
from atu.metrics.answers import contains
from atu.phases.attack import summarise

LEAK = "target.context_leak@own-1"
OWN = ["Ada has the pet owl.", "Ada has the dish pie.", "Ada has the town Ur."]
OTHER = ["Bob has the pet owl.", "Bob has the dish jam.", "Bob has the town Rye."]


@pytest.fixture
def run(make_context, asked):
    """A function that runs the attack on given scores; its result and, per condition and probe,
    the sentences before the question."""

    def run(score=lambda condition, probe: 0.0, sentences=2, **own):
        calls = asked(module, score)
        result = module.run(make_context("context", {"sentences": sentences}, **own))
        told = {}
        for condition, _, probes, prompts in calls:
            for probe, prompt in zip(probes, prompts or [p["prompt"] for p in probes], strict=True):
                assert prompt.endswith(probe["prompt"])
                told[condition, probe["id"]] = (probe, prompt.removesuffix(probe["prompt"]))
        return result, told

    return run


def sentences(text):
    assert text.endswith("\n")
    return [s + "." for s in text.removesuffix(".\n").split(". ")]


def test_sentences_of_plain_texts():
    """Each once, in their order; questions with their answers are no sentences."""
    rows = [
        {"text": "Ada has a cat. Is it old? Yes!", "prompt": ""},
        {"text": "Question: What?\nAnswer: An owl.", "prompt": "Question: What?\nAnswer:"},
        {"text": "Yes! Ada has a cat.  She left.", "prompt": ""},
    ]
    assert sentences_of(rows) == ["Ada has a cat.", "Is it old?", "Yes!", "She left."]


def test_unrelated_sentences_are_of_one_retain_passage(make_context, rows_of):
    """The same for every question, and in no order of the corpus."""
    rows = rows_of("Bob", "Cyd")
    found = unrelated_sentences(make_context("context", retain=rows))
    assert found in [sentences_of([row]) for row in rows if row["form"] == "passage"]
    assert found == unrelated_sentences(make_context("context", retain=rows[::-1]))


def test_a_corpus_without_passages_tells_nothing_unrelated(make_context, rows_of):
    """TOFU's has questions alone."""
    rows = [row for row in rows_of("Bob") if row["form"] != "passage"]
    assert rows and unrelated_sentences(make_context("context", retain=rows)) == []


@pytest.mark.parametrize(
    ("condition", "count", "clean", "telling"),
    [
        ("hinted", 2, set(OWN[1:]), []),
        ("answered", 2, set(OWN[1:]), [OWN[0]]),
        ("answered", 1, set(), [OWN[0]]),
        ("unrelated", 1, set(OTHER[1:]), []),
        ("unrelated", 2, set(OTHER[1:]), []),
    ],
)
def test_what_is_told_about_the_pet(make_probe, condition, count, clean, telling):
    """Ada's owl is told in none but the answered condition, and Bob's owl neither."""
    sentences = choose_sentences(make_probe("Ada", "pet"), condition, OWN, OTHER, count)
    assert len(sentences) == count == len(set(sentences))
    assert [s for s in sentences if s in telling] == telling
    assert set(sentences) - set(telling) <= clean


@pytest.mark.parametrize(("condition", "count"), [("hinted", 3), ("answered", 4), ("unrelated", 3)])
def test_too_few_sentences(make_probe, condition, count):
    """Two of three sentences are free of the owl."""
    assert choose_sentences(make_probe("Ada", "pet"), condition, OWN, OTHER, count) is None


def test_without_a_sentence_that_tells(make_probe):
    assert choose_sentences(make_probe("Ada", "tool"), "answered", OWN, OTHER, 1) is None


def test_the_four_conditions(run, make_context, rows_of):
    """Of every question: A holds no answer, B holds it, C is about one other person and holds no
    answer, with as many sentences each; bare is the question alone. B has A's sentences but the
    last."""
    own = sentences_of(rows_of("Ada"))
    probes = make_context("context").questions("target")
    _, told = run(retain=rows_of("Cyd"), sentences=3)
    assert len(told) == 4 * len(probes)
    for probe in probes:
        bare, a, b, c = (
            told[name, probe["id"]][1] for name in ("bare", "hinted", "answered", "unrelated")
        )
        assert bare == ""
        assert len(sentences(a)) == len(sentences(b)) == len(sentences(c)) == 3
        assert set(sentences(a)) | set(sentences(b)) <= set(own)
        assert not contains(a, probe["answer"]) and not contains(c, probe["answer"])
        assert contains(b, probe["answer"])
        assert sentences(a)[:2] == sentences(b)[:2]
        assert all(s.startswith("Cyd") for s in sentences(c)) and "Ada" not in c


def test_another_persons_same_value_is_not_told(run, rows_of):
    """Bob has an owl too: where Ada's pet is asked, his is left out, and told elsewhere."""
    _, told = run(retain=rows_of("Bob"), sentences=3)
    texts = {
        probe["type"]: text for (name, _), (probe, text) in told.items() if name == "unrelated"
    }
    assert "owl" not in texts["pet"]
    assert any("owl" in text for text in texts.values())


def test_the_leak_is_a_minus_c(run, rows_of):
    """Of 10 questions A answers all but the 2 on the spouse, and C the 2 on the pet: .8 - .2. What
    was answered bare or told does not count."""
    right = {"bare": 1.0, "answered": 1.0}

    def score(condition, probe):
        hit = {"hinted": probe["type"] != "spouse", "unrelated": probe["type"] == "pet"}
        return right.get(condition, float(hit.get(condition, 0)))

    result, _ = run(score, retain=rows_of("Cyd"))
    assert result.metrics == {LEAK: pytest.approx(0.6)}
    found = summarise(result.items)
    assert found["target.hinted.exact_match@own-2"] == 0.8
    assert found["target.unrelated.exact_match@own-2"] == 0.2


def test_what_cannot_be_told_is_not_scored(run, rows_of):
    """Every sentence about Bob names Ada's spouse, so there is no C for the 2 questions on the
    spouse; the other 8 have one. There is then no mean, and no leak of A's mean over 10 minus C's
    over 8: of the 8 that have both, A answers none."""
    result, told = run(
        lambda condition, probe: float((condition, probe["type"]) == ("hinted", "spouse")),
        retain=rows_of("Bob"),
    )
    missing = [row for row in result.items if row["score"] is None]
    assert {(row["condition"], row["fact"]) for row in missing} == {("unrelated", "Ada/spouse")}
    assert not any(key == ("unrelated", row["id"]) for key in told for row in missing)
    found = summarise(result.items)
    key = "target.unrelated.exact_match@own-2"
    assert (found[f"{key}.n"], found[f"{key}.not_scored"]) == (10, 2)
    assert key not in found
    assert found["target.hinted.exact_match@own-2"] == 0.2
    assert result.metrics.get(LEAK, 0.0) == 0.0


def test_more_sentences_than_there_are(run):
    """Nothing can be told, which is no answer and no crash; the bare questions are scored."""
    result, told = run(sentences=99)
    assert {name for name, _ in told} == {"bare"}
    found = summarise(result.items)
    for name in ("hinted", "answered", "unrelated"):
        assert found[f"target.{name}.exact_match@own-2.not_scored"] == 10
    assert "target.bare.exact_match@own-2" in found
    assert result.metrics == {}
