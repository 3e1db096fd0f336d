"""What Snakemake left: by its own code, and whatever else may stand there."""

import json
import re
from pathlib import Path

import pytest

from atu.terminal.records import TAIL, Records, last_words

RULES = Path(__file__).parents[3] / "workflow/rules"
LONG = "x" * 200


@pytest.fixture
def records(tmp_path):
    return Records(tmp_path / "results" / "world")


@pytest.mark.parametrize("job", ["prepare/shared", f"attack/m/{LONG}/ga/0/lens", "prepare/Ängel"])
def test_a_record_is_where_snakemake_writes_it(records, job):
    """By its own code, of short and long paths. Red when another version has another place."""
    from snakemake.persistence.file import FilePersistence

    persistence = FilePersistence(path=records.root / ".snakemake", nolock=True)
    output = f"results/world/{job}/manifest.json"
    folder = records.results / job
    for kind in ("metadata", "incomplete"):
        theirs = persistence._record_path(str(records.root / ".snakemake" / kind), output)
        assert str(records._file(kind, folder)) == theirs


def test_the_checksums_of_inputs(records):
    folder = records.results / "prepare/shared"
    assert records.inputs(folder) is None
    file = records._file("metadata", folder)
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"input_checksums": {"src/a.py": "sha256:01"}, "rule": "x"}))
    assert records.inputs(folder) == {"src/a.py": "01"}


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"input_checksums": {"a": 1}}', "\udcff"])
def test_a_record_that_is_none_says_nothing(records, text):
    folder = records.results / "prepare/shared"
    file = records._file("metadata", folder)
    file.parent.mkdir(parents=True)
    file.write_bytes(text.encode(errors="surrogateescape"))
    assert records.inputs(folder) is None


def test_every_rules_log_is_where_its_folder_says():
    """The rules name folder and log by one path; `Records.log` counts on it."""
    found = {}
    for path in RULES.glob("*.smk"):
        text = path.read_text(encoding="utf-8")
        for rule in re.split(r"^rule ", text, flags=re.MULTILINE)[1:]:
            output = re.search(r'manifest=RESULTS / "([^"]+)" / MANIFEST', rule)
            if output:
                found[output[1]] = re.search(r'LOGS / "([^"]+)\.log"', rule)[1]
    assert len(found) > 12
    records = Records(Path("results/world"))
    for folder, log in found.items():
        assert records.log(Path("results/world") / folder) == Path(f"logs/world/{log}.log")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ""), ("\n \n", ""), ("a\nb\n", "b"), ("bar 1%\rbar 2%", "bar 2%"),
        ("memory: x\natu: no space: y\nfree some\n", "atu: no space: y free some"),
        ("\x1b[2Jx", r"\x1b[2Jx"), ("\udcff", "\ufffd"), ("z" * 2 * TAIL + "\nend", "end"),
    ],
)  # fmt: skip
def test_the_last_words_of_a_log(tmp_path, text, words):
    log = tmp_path / "x.log"
    log.write_bytes(text.encode(errors="surrogateescape"))
    assert last_words(log) == words


def test_no_log_has_no_words(tmp_path):
    assert last_words(tmp_path / "x.log") is None
