"""Tables of a local folder or of the hub, against their lock."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from made.hub import write_dataset
from made.strange import STRANGE

from atu.benchmarks.rwku import Settings as Rwku
from atu.benchmarks.shared.source import (
    Reader,
    asked_text,
    digest_of,
    open_readers,
    sources_of,
    text_of,
    texts_of,
)
from atu.errors import SourceError
from atu.results.locks import Lock, Source

ROWS = [{"text": "one owl"}, {"text": "Zoë's elk"}]


@pytest.fixture
def folder(tmp_path):
    """A file and a data set repository in one folder, with equal rows."""
    folder = write_dataset(tmp_path / "bench", {("birds", "train"): ROWS})
    (folder / "birds.json").write_text(json.dumps(ROWS), encoding="utf-8")
    return folder


@pytest.fixture
def source(folder, tmp_path):
    return Source(str(folder), None, str(tmp_path / "lock.json"))


@pytest.fixture
def locked(source):
    """The source, with both of its tables in the lock."""
    lock = Lock()
    reader = Reader(source, lock, record=True)
    reader.file("birds.json")
    reader.table("birds", "train")
    lock.write(Path(source.lock))
    return source


def test_reads_what_is_locked(locked):
    """The same rows from either, and the same digest."""
    reader = Reader.open(locked)
    assert reader.file("birds.json") == ROWS == reader.table("birds", "train")
    assert set(Reader.open(locked).lock.content.values()) == {digest_of(ROWS)}
    assert reader.names("bird*") == ["birds-train.jsonl", "birds.json"]


def test_a_digest_is_of_rows_in_their_order():
    """Neither the order of keys nor the format of the file matters."""
    assert digest_of([{"a": 1, "b": "ë"}]) == digest_of([{"b": "ë", "a": 1}])
    assert digest_of(ROWS) != digest_of(ROWS[::-1])
    assert digest_of([{"a": 1}]) == hashlib.sha256(b'{"a": 1}\n').hexdigest()


def test_a_missing_lock_names_the_repair(source):
    with pytest.raises(SourceError, match=r"lock\.json: cannot be read .*`atu fetch` writes it"):
        Reader.open(source)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"revision": null}', '{"revision": 1, "content": {}}',
     '{"revision": null, "content": {"a": 1}}', '{"revision": null, "content": []}',
     '{"revision": null, "content": {}, "more": 1}', "\xff"],
)  # fmt: skip
def test_what_is_no_lock_is_refused(source, tmp_path, content):
    (tmp_path / "lock.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(SourceError, match="is not a lock"):
        Reader.open(source)


@pytest.mark.parametrize("commit", [None, "a" * 40, "main"])
def test_a_lock_of_the_asked_commit_is_taken(source, tmp_path, commit):
    """A branch stands for the commit that it was when it was locked."""
    Lock("a" * 40).write(tmp_path / "lock.json")
    assert Lock.of(Source("o/n", commit, source.lock)).revision == "a" * 40


def test_a_lock_of_another_commit_is_refused(source, tmp_path):
    """Who edits the revision must not go on reading the old one."""
    Lock("a" * 40).write(tmp_path / "lock.json")
    with pytest.raises(SourceError, match=r"o/n@a{40}, but b{40} is requested; `atu fetch --up"):
        Lock.of(Source("o/n", "b" * 40, source.lock))


def test_an_unknown_table_is_refused(locked, folder):
    (folder / "more.json").write_text("[]", encoding="utf-8")
    with pytest.raises(SourceError, match=r"has no entry for 'more\.json' .*`atu fetch` adds it"):
        Reader.open(locked).file("more.json")


def test_an_altered_file_is_named_with_the_repair(locked, folder):
    (folder / "birds.json").write_text(json.dumps(ROWS[:1]), encoding="utf-8")
    with pytest.raises(SourceError, match=r"'birds\.json' is altered.*`atu fetch --update`"):
        Reader.open(locked).file("birds.json")


def test_no_stale_cache_answers_for_an_altered_table(locked, folder):
    """`datasets` would know a file again by its path, size and time: here all three stay."""
    path = folder / "birds-train.jsonl"
    Reader.open(locked).table("birds", "train")
    before = path.stat()
    path.write_text(path.read_text(encoding="utf-8").replace("owl", "elk"), encoding="utf-8")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    with pytest.raises(SourceError, match="'birds/train' is altered"):
        Reader.open(locked).table("birds", "train")


def test_a_table_is_read_once(locked, folder):
    reader = Reader.open(locked)
    first = reader.file("birds.json")
    (folder / "birds.json").unlink()
    assert reader.file("birds.json") is first


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"{", "is not a JSON file"), (b'[{"a": NaN}]', "is not a JSON file"),
     (b"\xff[]", "is not a JSON file"), (b"{}", "is not a list of rows"),
     (b"[1]", "is not a list of rows")],
)  # fmt: skip
def test_what_is_no_list_of_rows_is_refused(locked, folder, content, reason):
    (folder / "birds.json").write_bytes(content)
    with pytest.raises(SourceError, match=rf"birds\.json: {reason}"):
        Reader.open(locked).file("birds.json")


def test_half_of_a_surrogate_pair_is_replaced_and_counted(source, folder):
    """JSON can say it, no table can hold it. The digest is of what is read."""
    (folder / "birds.json").write_text(r'[{"text": "a\ud800\udbff"}]', encoding="utf-8")
    (folder / "birds-train.jsonl").write_text('{"text": "\\ud800"}\n', encoding="utf-8")
    reader = Reader(source, Lock(), record=True)
    assert reader.file("birds.json") == [{"text": "a\ufffd\ufffd"}]
    assert reader.table("birds", "train") == [{"text": "\ufffd"}]
    assert reader.replaced == {"birds.json": 2, "birds/train": 1}
    assert reader.lock.content["birds/train"] == digest_of([{"text": "\ufffd"}])


@pytest.mark.parametrize("escaped", [True, False])
def test_whatever_a_text_holds_is_read_from_either_layout(source, folder, escaped):
    """Control characters, ends of lines that are none in JSON, marks of direction, byte order marks
    (the files begin with one), a text that looks like a date, a very long one."""
    rows = [{"text": text} for kind, text in STRANGE.items() if kind != "half a surrogate pair"]
    lines = [json.dumps(row, ensure_ascii=escaped) for row in rows]
    (folder / "birds.json").write_text(f"\ufeff[{', '.join(lines)}]", encoding="utf-8")
    whole = "\ufeff" + "\n".join(lines) + "\n"
    (folder / "birds-train.jsonl").write_bytes(whole.encode())
    reader = Reader(source, Lock(), record=True)
    assert reader.file("birds.json") == rows == reader.table("birds", "train")
    assert reader.replaced == {}


def test_dates_stay_texts_and_missing_columns_are_null(source, folder):
    """`datasets` would make a column of dates of the one, and fill the other."""
    path = folder / "birds-train.jsonl"
    path.write_text('{"text": "2012-01-01"}\n\n{"n": 1}\n', encoding="utf-8")
    rows = Reader(source, Lock(), record=True).table("birds", "train")
    assert rows == [{"text": "2012-01-01", "n": None}, {"text": None, "n": 1}]


def test_a_missing_file_is_named(locked, folder):
    (folder / "birds.json").unlink()
    with pytest.raises(SourceError, match=r"bench/birds\.json: is missing; put the benchmark's"):
        Reader.open(locked).file("birds.json")


@pytest.mark.parametrize("name", ["../birds.json", "/etc/passwd", "a/../../b", "", "a\\b"])
def test_no_path_leads_out_of_the_folder(locked, name):
    with pytest.raises(SourceError, match="is not a path inside the folder"):
        Reader.open(locked).file(name)


def test_a_folder_that_is_not_there(locked, tmp_path):
    gone = Source(str(tmp_path / "gone"), None, locked.lock)
    with pytest.raises(SourceError, match="gone: no such folder; put the benchmark's files there"):
        Reader.open(gone).file("birds.json")


def test_a_table_that_cannot_be_loaded(locked):
    with pytest.raises(
        SourceError, match=r"fish/train cannot be loaded .*`atu fetch` downloads it"
    ):
        Reader.open(locked).table("fish", "train")


@pytest.mark.parametrize(("locked_commit", "expected"), [("c" * 40, "c" * 40), (None, "main")])
def test_the_hub_is_asked_for_the_locked_commit(
    tmp_path, monkeypatch, locked_commit, expected
):  # fmt: skip
    """And its own cache is used."""
    calls = []

    class Loaded:
        def to_list(self):
            return ROWS

    def load(place, config, **options):
        calls.append((place, config, options))
        return Loaded()

    monkeypatch.setattr("datasets.load_dataset", load)
    source = Source("owner/name", "main", str(tmp_path / "lock.json"))
    reader = Reader(source, Lock(locked_commit), record=True)
    assert reader.table("birds", "test") == ROWS
    options = {"split": "test", "revision": expected, "cache_dir": None}
    assert calls == [("owner/name", "birds", options)]
    assert reader.lock.content == {"birds/test": digest_of(ROWS)}


def test_every_source_of_the_settings_has_a_reader(locked):
    settings = Rwku("rwku", locked, "positive_phi3", 1, 0.5)
    assert sources_of(settings) == {"source": locked}
    assert open_readers(settings)["source"].source is locked


@pytest.mark.parametrize("row", [{}, {"text": None}, {"text": 3}, {"text": ["a"]}])
def test_a_row_without_its_text_is_named(row):
    assert text_of({"text": ""}, "text", "here") == ""
    with pytest.raises(SourceError, match="here: the row has no text 'text'"):
        text_of(row, "text", "here")
    with pytest.raises(SourceError, match="here, row 1: the row has no text 'text'"):
        texts_of([{"text": ""}, row], "text", "here")


@pytest.mark.parametrize("blank", ["", " ", "\n\t", "\u2028\u3000"])
def test_what_cannot_be_asked_is_refused(blank):
    assert asked_text({"query": " \x00"}, "query", "here") == " \x00"
    with pytest.raises(SourceError, match="here: the row has an empty 'query'"):
        asked_text({"query": blank}, "query", "here")
