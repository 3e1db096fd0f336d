"""Local benchmarks from files of RWKU's schema; every question here is made up."""

import json
import math
import re
from typing import get_args

import polars as pl
import pytest
import yaml
from made.strange import STRANGE, add_to

from atu.config.sections import BenchmarkSource
from atu.errors import ConfigError
from atu.inference.lm_eval_files import KINDS, read_rows, write_benchmark

MMLU = [
    {
        "question": "Which plum is red?",
        "choices": ["the green one", "the red one", "none", "both"],
        "answer": 1,
        "task": "plums",
        "examples": [
            {"question": "Which owl flies?", "choices": ["a", "b", "c", "d"], "answer": 3},
            {"question": "Which owl swims?", "choices": ["e", "f", "g", "h"], "answer": 0},
        ],
    },
    {"question": "How many owls?", "choices": ["1", "2", "3", "4"], "answer": 2},
]
BBH = [
    {"task": "t", "cot": "Q: one?\nA: So the answer is (A).", "question": "two?", "answer": "(B)"},
    {"task": "t", "cot": "Q: one?\nA: So the answer is (A).", "question": "six?", "answer": "no"},
]
TRUTHFUL = [
    {
        "question": "Do owls read?",
        "mc1_targets": {"choices": ["At night", "They don't", "Only \"plums\""],
                        "labels": [0, 1, 0]},
        "mc2_targets": {"choices": ["x"], "labels": [1]},
    }
]  # fmt: skip
TRIVIA = [
    {"question": "Which river?", "answers": ["The Wyst", "Wyst", "River Wyst"]},
    {"question": "Which bird?", "answers": "Owl"},
]
WMDP = [
    {"field": "owls", "question": " Which is it? ", "choices": ["w", "x", "y", "z"], "answer": 2},
]
TRUTHFUL_MC2 = [
    {"question": "Do owls read?",
     "mc2_targets": {"choices": ["At night", "No", "They don't"], "labels": [0, 1, 1]}},
]  # fmt: skip
FILES = {
    "mmlu": MMLU, "wmdp": WMDP, "bbh": BBH, "truthfulqa": TRUTHFUL,
    "truthfulqa_mc2": TRUTHFUL_MC2, "triviaqa": TRIVIA,
}  # fmt: skip


def write_file(folder, name, kind, source, documents):
    """A task of the first rows of a file."""
    key = f"utility.benchmarks.{name}.path"
    rows = read_rows(source, key)
    return write_benchmark(folder, name, kind, rows, documents, key, str(source))


@pytest.fixture
def write(tmp_path):
    """A function that makes a task of these rows (or this text); config and documents come back."""

    def write(kind, rows, documents=10, name="given"):
        source = tmp_path / "source.json"
        source.write_text(rows if isinstance(rows, str) else json.dumps(rows), encoding="utf-8")
        folder = tmp_path / "tasks"
        folder.mkdir(exist_ok=True)
        task = write_file(folder, name, kind, source, documents)
        config = yaml.safe_load((folder / f"{task}.yaml").read_text(encoding="utf-8"))
        return config, pl.read_parquet(folder / f"{task}.parquet").to_dicts()

    return write


def test_wmdp(write):
    """lm-eval's prompt for WMDP: the field in its head, the question without spaces around it."""
    (document,) = write("wmdp", WMDP)[1]
    assert document == {
        "id": 0,
        "prompt": "The following are multiple choice questions (with answers) about owls.\n\n"
        "Which is it?\nA. w\nB. x\nC. y\nD. z\nAnswer:",
        "choices": ["A", "B", "C", "D"],
        "gold": 2,
    }


def test_mmlu(write):
    """RWKU's five-shot prompt: the development rows with their letters, then the question."""
    first, second = write("mmlu", MMLU)[1]
    assert first == {
        "id": 0,
        "prompt": "The following are multiple choice questions (with answers).\n\n"
        "Which owl flies?\nA. a\nB. b\nC. c\nD. d\nAnswer: D\n\n"
        "Which owl swims?\nA. e\nB. f\nC. g\nD. h\nAnswer: A\n\n"
        "Which plum is red?\nA. the green one\nB. the red one\nC. none\nD. both\nAnswer:",
        "choices": ["A", "B", "C", "D"],
        "gold": 1,
    }
    assert second["prompt"] == (
        "The following are multiple choice questions (with answers).\n\n"
        "How many owls?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:"
    )
    assert second["gold"] == 2


def test_bbh(write):
    """The file's own reasoning examples, and the question in the same shape."""
    config, (first, second) = write("bbh", BBH)
    assert first == {
        "id": 0,
        "prompt": "Q: one?\nA: So the answer is (A).\n\nQ: two?\nA: Let's think step by step.",
        "answer": "(B)",
    }
    assert second["answer"] == "no"
    assert config["generation_kwargs"] == {
        "until": [], "do_sample": False, "max_gen_toks": 256,
    }  # fmt: skip


def test_truthfulqa(write):
    """The one true option of MC1, wherever it stands."""
    assert write("truthfulqa", TRUTHFUL)[1] == [
        {
            "id": 0,
            "prompt": "Q: Do owls read?\nA:",
            "choices": ["At night", "They don't", 'Only "plums"'],
            "gold": 1,
        }
    ]


def test_triviaqa(write):
    """Every alias; a single answer is its own only alias."""
    config, (first, second) = write("triviaqa", TRIVIA)
    assert first == {
        "id": 0,
        "prompt": "Question: Which river?\nAnswer:",
        "answer": "The Wyst",
        "aliases": ["The Wyst", "Wyst", "River Wyst"],
    }
    assert (second["answer"], second["aliases"]) == ("Owl", ["Owl"])
    assert config["generation_kwargs"] == {
        "until": [], "do_sample": False, "max_gen_toks": 30,
    }  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_the_task_is_local(write, kind):
    """Its data lie beside it, nothing is downloaded, and its metric is the one that is read."""
    config, documents = write(kind, FILES[kind])
    assert config["task"] == "local_given"
    assert config["dataset_path"] == "parquet" and config["test_split"] == "test"
    assert config["dataset_kwargs"] == {"data_files": {"test": "local_given.parquet"}}
    assert config["doc_to_text"] == "{{prompt}}" and config["target_delimiter"] == (
        "" if "doc_to_choice" in config else " "
    )
    assert config["num_fewshot"] == 0
    metric, name = KINDS[kind].metric.split(",")
    assert [found["metric"] for found in config["metric_list"]] == [metric]
    filters = [found["name"] for found in config.get("filter_list", [{"name": "none"}])]
    assert filters == [name]
    assert (config["output_type"] == "generate_until") == KINDS[kind].generates
    assert [document["id"] for document in documents] == list(range(len(FILES[kind])))


def test_which_kinds_are_generated():
    """Only a fall of these means collapse."""
    assert {kind for kind, found in KINDS.items() if found.generates} == {"bbh", "triviaqa"}


def test_every_kind_can_be_configured():
    """Besides `hub`, which is no file."""
    known = get_args(BenchmarkSource.model_fields["kind"].annotation)
    assert set(known) == {*KINDS, "hub"}


@pytest.mark.parametrize(
    ("text", "f1"), [("the Wyst river", 1.0), ("Wyst delta", 2 / 3), ("Rhine", 0.0)]
)
def test_triviaqa_is_scored_over_its_aliases(write, text, f1):
    """ "River Wyst" in any order; "Wyst" as one of two words."""
    document = write("triviaqa", TRIVIA)[1][0]
    score = KINDS["triviaqa"].score
    assert score is not None and score(document, text) == pytest.approx(f1)


def test_further_true_choices_are_not_asked(write):
    """MC1 is the first true one against the false ones, as in official code."""
    row = {"question": "Do owls read?",
           "mc1_targets": {"choices": ["a", "b", "c", "d"], "labels": [0, 1, 1, 0]}}  # fmt: skip
    (document,) = write("truthfulqa", [row])[1]
    assert (document["choices"], document["gold"]) == (["a", "b", "d"], 1)


def test_truthfulqa_mc2(write):
    """Every choice is asked; the score is the share of the true ones: 2/4 of 1/4 each, and 1/2."""
    (document,) = write("truthfulqa_mc2", TRUTHFUL_MC2)[1]
    assert document["choices"] == ["At night", "No", "They don't"]
    assert document["true"] == [False, True, True]
    score = KINDS["truthfulqa_mc2"].score
    assert score is not None
    assert score(document, [math.log(2), 0.0, 0.0]) == pytest.approx(1 / 2)


@pytest.mark.parametrize("kind", ["mmlu", "wmdp", "truthfulqa"])
def test_a_choice_is_scored_by_its_options(kind):
    """The likeliest option; of two that are equally likely each has half a point."""
    score = KINDS[kind].score
    logs = [-2.0, -1.0, -1.0]
    assert score is not None
    assert [score({"gold": gold}, logs) for gold in range(3)] == [0.0, 0.5, 0.5]


@pytest.mark.parametrize(("documents", "expected"), [(1, 1), (2, 2), (10, 2)])
def test_at_most_so_many_documents(write, documents, expected):
    assert len(write("bbh", BBH, documents)[1]) == expected


def test_letters_stay_letters(write):
    """Beyond ASCII."""
    document = write("triviaqa", [{"question": "Où est Élan?", "answers": ["Łódź"]}])[1][0]
    assert document["prompt"] == "Question: Où est Élan?\nAnswer:"
    assert document["answer"] == "Łódź"


def test_the_same_file_gives_the_same_bytes(write, tmp_path):
    """And none of its path."""
    written = []
    for _ in range(2):
        write("mmlu", MMLU)
        written.append(
            [(tmp_path / f"tasks/local_given.{kind}").read_bytes() for kind in ("yaml", "parquet")]
        )
    assert written[0] == written[1]
    assert not any(str(tmp_path).encode() in content for content in written[0])


def test_a_missing_file_is_named(tmp_path):
    """With the key that names it and what to look at; nothing is written."""
    source = tmp_path / "gone.json"
    with pytest.raises(ConfigError, match=r"cannot be read: No such file") as caught:
        write_file(tmp_path, "mine", "mmlu", source, 5)
    assert caught.value.key == "utility.benchmarks.mine.path"
    assert caught.value.value == str(source)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ('{"question": "q"}\n{"question": "r"}', "is not JSON"),
        ("", "is not JSON"),
        ("[]", "must be a JSON list with at least one row"),
        ('{"question": "q"}', "must be a JSON list with at least one row"),
        ("[3]", "row 0 lacks cot, question, answer"),
    ],
)
def test_a_file_of_another_shape_is_refused(write, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        write("bbh", text)
    assert caught.value.key == "utility.benchmarks.given.path"


def test_a_file_that_is_no_text_is_refused(tmp_path):
    source = tmp_path / "source.json"
    source.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not JSON"):
        write_file(tmp_path, "mine", "mmlu", source, 5)


@pytest.mark.parametrize(
    ("kind", "field"),
    [(kind, field) for kind, found in KINDS.items() for field in found.fields],
)
def test_a_missing_field_is_named_with_its_row(write, kind, field):
    """In the last row too, and whether or not that row would be asked."""
    rows = [*FILES[kind], {k: v for k, v in FILES[kind][0].items() if k != field}]
    number = len(FILES[kind])
    with pytest.raises(ConfigError, match=f"row {number} lacks {field}$") as caught:
        write(kind, rows, documents=1)
    assert caught.value.key == "utility.benchmarks.given.path"


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("mmlu", {"answer": "B"}),
        ("mmlu", {"answer": 4}),
        ("mmlu", {"examples": [{"question": "q"}]}),
        ("truthfulqa", {"mc1_targets": {"choices": ["a", "b"], "labels": [0, 0]}}),
        ("truthfulqa", {"mc1_targets": {"choices": ["a", "b"]}}),
        ("triviaqa", {"answers": []}),
    ],
    ids=[
        "a letter for an index", "no such choice", "an example without choices", "nothing is true",
        "no labels", "no answer",
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_asked_is_named_with_its_row(write, kind, change):
    """The fields are there and hold something else than RWKU's files do."""
    rows = [FILES[kind][0], FILES[kind][0] | change]
    with pytest.raises(ConfigError, match="row 1"):
        write(kind, rows)


def changed(kind, **fields):
    return [{**FILES[kind][0], **fields}]


CHOICES = {"choices": ["a", "b"], "labels": [0, 1]}
HOSTILE = {
    "five choices, four letters": ("mmlu", {"choices": [*"abcde"], "answer": 4}, "4 letters"),
    "choices as one text": ("mmlu", {"choices": "ABCD"}, "no list of texts"),
    "a choice that is a list": ("mmlu", {"choices": ["a", ["b"]]}, "is no text"),
    "an answer between two": ("mmlu", {"answer": 1.9}, "answer 1.9 is none of"),
    "an answer that is true": ("mmlu", {"answer": True}, "answer True is none of"),
    "an answer below": ("mmlu", {"answer": -1}, "answer -1 is none of"),
    "an answer without end": ("mmlu", {"answer": "9" * 5000}, "4300 digits"),
    "a question that is a number": ("mmlu", {"question": 7}, "7 is no text"),
    "examples that are a number": ("mmlu", {"examples": 5}, "not iterable"),
    "a label too many": ("truthfulqa", {"mc1_targets": CHOICES | {"labels": [0, 0, 1]}}, "labels"),
    "two right ones": ("truthfulqa", {"mc1_targets": CHOICES | {"labels": [1, 1]}}, "labels"),
    "no right one": ("truthfulqa", {"mc1_targets": CHOICES | {"labels": [0, 0]}}, "labels"),
    "targets as a list": ("truthfulqa", {"mc1_targets": []}, "TypeError"),
    "no question": ("mmlu", {"question": ""}, "is empty, so it cannot be asked"),
    "a question of spaces": ("truthfulqa", {"question": " \n"}, "is empty"),
    "an empty answer": ("bbh", {"answer": ""}, "is empty"),
    "empty aliases": ("triviaqa", {"answers": ["", " "]}, "is empty"),
    "an answer that is null": ("bbh", {"answer": None}, "None is no text"),
    "an alias that is a number": ("triviaqa", {"answers": ["x", 1]}, "1 is no text"),
    "no alias": ("triviaqa", {"answers": []}, "no list of texts"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_row_is_one_message(write, name):
    kind, fields, reason = HOSTILE[name]
    with pytest.raises(ConfigError, match=rf"source\.json': row 0 has a bad value: .*{reason}"):
        write(kind, changed(kind, **fields))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('[{"question": "a", "question": "b"}]', "the key 'question' twice"),
        ('[{"answer": Infinity}]', "which is not finite"),
        ("[" + "9" * 5000 + "]", "4300 digits"),
    ],
)
def test_a_hostile_file_is_one_message(write, text, reason):
    with pytest.raises(ConfigError, match=rf"utility\.benchmarks\.given\.path.*{reason}"):
        write("bbh", text)


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("name", STRANGE)
def test_whatever_a_text_holds_reaches_lm_eval(write, tmp_path, capsys, kind, name):
    """Through the loader that lm-eval uses, character by character. Half a surrogate pair is
    U+FFFD, and it is said how many there were."""
    import datasets

    fields = {key: add_to(FILES[kind][0][key], STRANGE[name]) for key in KINDS[kind].fields}
    documents = write(kind, [FILES[kind][0] | fields, FILES[kind][0]])[1]
    expected = re.sub("[\ud800-\udfff]", "\ufffd", STRANGE[name])
    if expected != STRANGE[name]:
        assert "unpaired surrogates are read as U+FFFD" in capsys.readouterr().err
    assert expected in documents[0]["prompt"]
    loaded = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "tasks/local_given.parquet"), split="train",
        cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    assert loaded.to_list() == documents


def test_empty_options_and_aliases_are_asked(write):
    """As the official code does; only the question and the answer must be there."""
    rows = changed("mmlu", choices=["", "the red one", "", "both"])
    assert "\nA. \nB. the red one\nC. \n" in write("mmlu", rows)[1][0]["prompt"]
    options = {"choices": ["", "They don't"], "labels": [0, 1]}
    assert write("truthfulqa", changed("truthfulqa", mc1_targets=options))[1][0]["choices"][0] == ""
    assert write("triviaqa", changed("triviaqa", answers=["Wyst", ""]))[1][0]["aliases"][1] == ""


@pytest.mark.parametrize("kind", ["triviaqa", "truthfulqa"])
def test_dates_are_texts_to_lm_eval(write, tmp_path, kind):
    """`datasets` reads a column of dates in JSON as timestamps, which have another spelling."""
    import datasets

    dates = ["1990-05-01", "1991-06-02"]
    options = {"choices": dates, "labels": [1, 0]}
    new = {"answers": dates} if kind == "triviaqa" else {"mc1_targets": options}
    documents = write(kind, changed(kind, **new))[1]
    loaded = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "tasks/local_given.parquet"), split="train",
        cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    assert loaded.to_list() == documents
    assert loaded[0]["aliases" if kind == "triviaqa" else "choices"] == dates


def test_line_separators_within_a_text_are_no_new_documents(write, tmp_path):
    """U+2028, U+0085 and a form feed end a line for `str.splitlines`."""
    from atu.phases.utility import _lines

    write("bbh", changed("bbh", question="one\u2028two\nthree\r\nfour"))
    assert _lines(tmp_path / "tasks", "local_given") == 1


def test_templates_within_a_text_are_not_filled_in(write):
    """lm-eval renders `{{prompt}}` with jinja: what stands in the prompt is text to it."""
    from lm_eval.utils import apply_template

    evil = "{{ cycler.__init__.__globals__.os.popen('touch x') }}{% for i in 9 %}"
    config, documents = write("bbh", changed("bbh", question=evil))
    assert evil in apply_template(config["doc_to_text"], documents[0])


@pytest.mark.parametrize("kind", ["bbh", "triviaqa"])
def test_an_answer_in_brackets_is_text_to_lm_eval(write, tmp_path, monkeypatch, kind):
    """Of a template's text that reads as a list lm-eval makes one, and fails at it."""
    from lm_eval.api.task import ConfigurableTask

    new = {"answer": "[1, 2]"} if kind == "bbh" else {"answers": ["[1, 2]"]}
    config, documents = write(kind, changed(kind, **new))
    monkeypatch.chdir(tmp_path / "tasks")
    task = ConfigurableTask(config=config)
    assert task.doc_to_target(documents[0]) == "[1, 2]"


def test_an_empty_first_option_is_asked_by_lm_eval(write, tmp_path, monkeypatch):
    """After a space, as every option."""
    from lm_eval.api.task import ConfigurableTask

    options = {"choices": ["", "They don't"], "labels": [0, 1]}
    config, documents = write("truthfulqa", changed("truthfulqa", mc1_targets=options))
    monkeypatch.chdir(tmp_path / "tasks")
    asked = ConfigurableTask(config=config).construct_requests(
        documents[0], "Q", metadata=("t", 0, 1)
    )
    assert [request.args for request in asked] == [("Q", " "), ("Q", " They don't")]
