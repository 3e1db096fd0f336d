"""Probes and answers side by side, whatever they hold."""

import pytest

from atu.errors import ArtifactError, ConfigError
from atu.terminal.answers import Wanted, answers, print_answers

EVIL = "[red]x[/red] :smile: \x1b[2J\x9b1m\u202eabc\ngold  owl\r\tz"
"""Markup of rich, an emoji's code, a terminal's commands, an override, and a line like ours."""


@pytest.fixture
def cells(world, ga_leaks, make_item):
    """The original, GA and the oracle; GA answers one more question with `EVIL`."""
    more = {"fact": "Ada/job", "form": "choice", "options": ["elk", EVIL]}
    world("none", extra=[make_item(**more)])
    world("oracle", leaks=ga_leaks, extra=[make_item(**more)])
    return world("ga", leaks=ga_leaks, extra=[make_item(**more, output=EVIL)])


def shown(found, capsys, monkeypatch, width=80):
    """What is printed."""
    monkeypatch.setenv("COLUMNS", str(width))
    print_answers(found)
    return capsys.readouterr().out


def test_the_answers_stand_below_the_gold_one(cells, capsys, monkeypatch):
    """The original's first, the method's, the oracle's; of two facts the first probe."""
    found = answers(cells, Wanted("target", "ga", form="cloze"), 1)
    assert found.count == 2
    assert [line.split() for line in shown(found, capsys, monkeypatch).splitlines()] == [
        ["Ada/pet/cloze/new/report", "(cloze;", "Ada,", "seed", "0,", "m)"],
        ["question", "Ada/pet", "as", "cloze?"],
        ["gold", "owl"], ["none", "1.00", "owl"], ["ga", "1.00", "owl"],
        ["oracle", "1.00", "owl"], [], ["1", "of", "2", "probes", "of", "the", "report", "split."],
    ]  # fmt: skip


def test_a_wide_terminal_shows_them_side_by_side(cells, capsys, monkeypatch):
    """A row per probe, a column per method, and a score below every answer: GA and the oracle do
    not know this fact. No text commands it."""
    found = answers(cells, Wanted("target", "ga", form="choice"), 9)
    lines = shown(found, capsys, monkeypatch, width=160).splitlines()
    assert lines[1].split() == ["probe", "gold", "none", "ga", "oracle"]
    probe, question, *_ = (line for line in lines[3:] if line.strip())
    assert probe.split()[-4:-2] == ["owl", "owl"]
    assert question.split()[-3:] == ["1.00", "0.00", "0.00"]
    assert not {"\x1b", "\x9b", "\u202e", "\r", "\t"} & set("".join(lines))
    assert max(map(len, lines)) <= 160


def test_a_text_cannot_command_the_terminal(cells, capsys, monkeypatch):
    """It is shown as it is, in one line: no markup, no emoji, no control, no second line."""
    found = answers(cells, Wanted("target", "ga", form="choice"), 9)
    text = shown(found, capsys, monkeypatch, width=99)
    escaped = r"[red]x[/red] :smile: \x1b[2J\x9b1m\u202eabc\ngold  owl\r\tz"
    assert f"ga        0.00  {escaped}" in text
    assert f"options         elk; {escaped}" in text
    assert not {"\x1b", "\x9b", "\u202e", "\r", "\t"} & set(text)
    assert [line.strip() for line in text.splitlines()].count("gold  owl") == 0
    narrow = shown(found, capsys, monkeypatch, width=40)
    assert max(map(len, narrow.splitlines())) <= 40


def test_a_wording_of_the_forget_corpus_is_marked(cells, capsys, monkeypatch):
    text = shown(answers(cells, Wanted("target", "ga", form="question"), 9), capsys, monkeypatch)
    assert text.count("a wording of the forget") == 2


def test_who_has_not_finished_is_left_out(world, capsys, monkeypatch):
    """Of a half-finished grid GA alone."""
    found = answers(world("ga"), Wanted("neighbour", "ga"), 9)
    assert [[*probe["answers"]] for probe in found.probes] == [["ga"], ["ga"]]


def test_the_original_stands_once(cells):
    found = answers(cells, Wanted("target", "none"), 1)
    assert [*found.probes[0]["answers"]] == ["none", "oracle"]


def test_a_target_is_named_as_it_is_or_as_its_folder(world, tmp_path):
    """And a seed narrows further."""
    for seed in (0, 1):
        results = world("ga", seed)
    (results / "rephrase/m/Ada").rename(results / "rephrase/m/Ada_1")
    by_name, by_folder = (
        answers(results, Wanted("target", "ga", target, None, 1), 99) for target in ("Ada", "Ada_1")
    )
    assert by_name == by_folder
    assert {probe["seed"] for probe in by_name.probes} == {1}


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (
            Wanted("target", "gaa"),
            "--method = 'gaa': no finished answer has it; there are ga, none",
        ),
        (
            Wanted("targets", "ga"),
            "--role = 'targets': no finished answer has it; there are target",
        ),
        (
            Wanted("target", "ga", "Eve"),
            "--target = 'Eve': no finished answer has it; there are Ada",
        ),
        (Wanted("target", "ga", None, "clozes"), "there are question, cloze, choice, paired"),
        (
            Wanted("target", "ga", None, None, 7),
            "--seed = 7: no finished answer has it; there are 0",
        ),
    ],
)
def test_what_is_not_there_is_refused_by_name(cells, wanted, says):
    with pytest.raises(ConfigError) as caught:
        answers(cells, wanted, 9)
    assert says in str(caught.value)


def test_results_without_answers_are_refused(tmp_path):
    with pytest.raises(ArtifactError, match="run `snakemake rephrase` first"):
        answers(tmp_path, Wanted("target", "ga"), 9)
