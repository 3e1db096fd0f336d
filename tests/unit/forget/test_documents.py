"""Files and folders that people bring: what is read, what is counted, what is refused and how."""

import json
import os

import polars as pl
import pytest

from atu.errors import AtuError
from atu.forget import documents
from atu.forget.documents import account, is_blank, read_documents

OPTION = "--texts"


@pytest.fixture
def folder(tmp_path):
    """A function that writes files by their names, texts or bytes, into one folder."""

    def make(**files):
        return write(tmp_path / "given", {n.replace("__", "."): c for n, c in files.items()})

    return make


def write(place, files):
    for name, content in files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return place


def read(*places):
    return read_documents(OPTION, places)


def test_every_kind_of_file_in_the_order_of_the_names(tmp_path):
    """Of a text file all is one document, of the others every row."""
    rows = ["third", "fourth"]
    place = write(tmp_path / "given", {
        "a.TXT": "first\n\nof it", "b.md": "# second",
        "c/d.jsonl": "".join(json.dumps({"text": t, "id": 1}) + "\n\n" for t in rows),
    })  # fmt: skip
    pl.DataFrame({"id": [1, 2], "text": ["fifth", "sixth"]}).write_parquet(place / "z.parquet")
    found = read(place)
    # The files of a folder come before those of its subfolders.
    assert found.texts == ("first\n\nof it", "# second", "fifth", "sixth", "third", "fourth")
    assert found.counts == {"files": 4, "documents": 6}
    assert [name for name, _ in found.digests] == ["a.TXT", "b.md", "z.parquet", "c/d.jsonl"]


def test_what_is_left_out_is_counted_by_its_reason(folder, tmp_path):
    place = folder(a__txt="Ann sings.", b__txt=" \n\u2028", c__txt="", d__pdf=b"%PDF", e="x",
                   __hidden="y")  # fmt: skip
    write(place, {".git/a.txt": "z"})
    (place / "link").symlink_to(place / ".git")
    found = read(place)
    assert found.texts == ("Ann sings.",)
    assert account(found.counts) == (
        "files 3, documents 1; left out: hidden 2, empty 2, .pdf (not read) 1, without suffix "
        "(not read) 1, links to folders or special files 1"
    )


def test_digests_are_of_bytes_and_names_alone(folder, tmp_path):
    """A folder may be moved; one byte more is another text."""
    place = folder(a__txt="Ann sings.")
    before = read(place).digests
    place.rename(tmp_path / "moved")
    assert read(tmp_path / "moved").digests == before
    write(tmp_path / "moved", {"a.txt": "Ann sings. "})
    assert read(tmp_path / "moved").digests != before


REFUSED = {
    "nothing there": ({}, r"no such file or folder; name one of texts"),
    "no text": ({"a.pdf": "x", "b.pdf": "x", ".c.txt": "x"},
                r"holds no text \(left out: hidden 1, \.pdf \(not read\) 2\); .*export"),
    "blank": ({"a.txt": "\ufeff \n"}, r"holds no text \(files 1; left out: empty 1\)"),
    "no rows": ({"a.jsonl": "\n"}, r"holds no text \(files 1; left out: empty 1\)"),
    "latin-1": ({"a.txt": "Zoë".encode("latin-1")}, r"a\.txt: is no UTF-8 text: byte 2 \(0xeb\)"),
    "no JSON": ({"a.jsonl": '{"text": "x"}\n{"text": }'}, r"a\.jsonl: line 2 is not JSON"),
    "no object": ({"a.jsonl": '\n["x"]'}, r"line 2 is no object but \['x'\]; write one object"),
    "another key": ({"a.jsonl": '{"body": "x", "id": 1}'},
                    r"line 1 has no text 'text' but None; its keys are body, id; rename"),
    "no text in it": ({"a.jsonl": '{"text": 3}'}, r"line 1 has no text 'text' but 3"),
    "no parquet": ({"a.parquet": "x"}, r"a\.parquet: cannot be read as parquet"),
}  # fmt: skip


@pytest.mark.parametrize(("files", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_named_with_its_place(tmp_path, files, message):
    with pytest.raises(AtuError, match=message):
        read(write(tmp_path / "given", files))


def test_a_file_of_another_kind_is_refused_by_name(tmp_path):
    with pytest.raises(AtuError, match=r"--texts .*a\.pdf: is no file that can be read; \.txt, "):
        read(write(tmp_path, {"a.pdf": "x"}) / "a.pdf")


def test_columns_of_a_table_are_named(tmp_path):
    path = tmp_path / "a.parquet"
    pl.DataFrame({"body": ["x"], "text": [1]}).write_parquet(path)
    with pytest.raises(AtuError, match=r"no column 'text' of texts but body \(String\), text \(In"):
        read(path)
    pl.DataFrame({"text": ["x", None]}).write_parquet(path)
    with pytest.raises(AtuError, match=r"row 1 \(from 0\) has no 'text'"):
        read(path)


def test_a_link_out_of_the_folder_is_refused(folder, tmp_path):
    """One within it is a second name of a file."""
    place = folder(a__txt="Ann sings.")
    (place / "b.txt").symlink_to("a.txt")
    assert read(place).counts["files"] == 2
    (tmp_path / "secret.txt").write_text("x")
    (place / "c.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(AtuError, match=r"c\.txt: a link out of the folder"):
        read(place)


def test_bounds(folder, monkeypatch):
    """Of one file, of all files, and of their number."""
    place = folder(a__txt="x" * 8, b__txt="y" * 8)
    monkeypatch.setattr(documents, "MAX_BYTES", 10)
    with pytest.raises(AtuError, match=r"b\.txt would be more than the 0 MB that are read"):
        read(place)
    monkeypatch.setattr(documents, "MAX_BYTES", 7)
    with pytest.raises(AtuError, match=r"a\.txt would be more"):
        read(place / "a.txt")
    monkeypatch.setattr(documents, "MAX_BYTES", 100)
    monkeypatch.setattr(documents, "MAX_FILES", 1)
    with pytest.raises(AtuError, match="holds more than 1 files"):
        read(place)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_may_not_be_read_is_named(folder):
    place = folder(a__txt="x")
    (place / "a.txt").chmod(0)
    with pytest.raises(AtuError, match=r"a\.txt: cannot be read \(Permission denied\)"):
        read(place)


ANYTHING = {
    "a mark": ("\ufeffAnn".encode(), "Ann"),
    "UTF-16": ("Zoë".encode("utf-16"), "Zoë"),
    "UTF-16, big": (b"\xfe\xff" + "Zoë".encode("utf-16-be"), "Zoë"),
    "UTF-32": ("Zoë".encode("utf-32"), "Zoë"),
    "CRLF": (b"a\r\nb\rc\n", "a\nb\nc\n"),
    "signs": ("a\x00b\x1b[2J\u2028c\u202ed".encode(), "a\x00b\x1b[2J\u2028c\u202ed"),
    "half a pair": (b"\xff\xfea\x00\x00\xd8b\x00", "a\ufffdb"),
    "half a pair in UTF-8": (b"a\xed\xa0\x80b", "a\ufffdb"),
}


@pytest.mark.parametrize(("content", "text"), ANYTHING.values(), ids=ANYTHING)
def test_real_text_holds_anything(tmp_path, content, text):
    found = read(write(tmp_path, {"a.txt": content}) / "a.txt")
    assert found.texts == (text,)
    assert found.counts.get(documents.REPLACED, 0) == text.count("\ufffd")


def test_rows_hold_anything_too(tmp_path):
    """U+2028 within a string ends no line; half a pair, which JSON can spell, is replaced."""
    content = '{"text": "a\u2028b"}\r\n{"text": "c\\ud800"}\n'
    found = read(write(tmp_path, {"a.jsonl": content}) / "a.jsonl")
    assert found.texts == ("a\u2028b", "c\ufffd")
    assert found.counts[documents.REPLACED] == 1


@pytest.mark.parametrize(("text", "blank"), [("", True), ("\ufeff\u200b\n", True), ("-", False),
                                             ("\U0001f600", False), ("\x00", True)])  # fmt: skip
def test_blank_is_what_nobody_sees(text, blank):
    assert is_blank(text) is blank
