"""Readers of text that others wrote, and the strict YAML of parameter files."""

import pytest
import yaml

from atu.config.load import load_params
from atu.errors import HIDDEN, MAX_SHOWN, ConfigError, shown, visible
from atu.untrusted.texts import (
    decoded,
    is_file,
    is_folder,
    parse_json,
    read_text,
    require_inside,
    whole,
)
from atu.untrusted.yaml import MAX_DEPTH, MAX_NODES, parse_yaml


def test_a_file_is_read_up_to_its_limit(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"12345678")
    assert read_text(path, 8) == "12345678"
    with pytest.raises(ValueError, match="larger than"):
        read_text(path, 7)


def test_a_byte_order_mark_is_no_text(tmp_path):
    """At the file's beginning, where editors put it; elsewhere it is a character."""
    path = tmp_path / "x"
    path.write_bytes(b'\xef\xbb\xbf["a\xef\xbb\xbf"]')
    assert parse_json(read_text(path, 99)) == ["a\ufeff"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"ab\xe9 c", r"no UTF-8 text: byte 2 \(0xe9\), .*; save it as UTF-8, .*iconv -f WINDOWS"),
        (b"\xef\xbb\xbfab\xe9 c", r"no UTF-8 text: byte 5 \(0xe9\)"),
        (b"\xff\xfea\x00b", r"no UTF-16 text: byte 4 \(0x62\), truncated data"),
        ("Ann".encode("utf-16-le"), r"byte 1 is 0, as are 2 others; if it is UTF-16 without"),
    ],
    ids=["latin-1", "behind a mark", "half a unit", "no mark"],
)
def test_what_is_no_text_is_named_by_its_byte(content, message):
    with pytest.raises(ValueError, match=message):
        decoded(content)


def test_half_a_surrogate_pair_is_replaced_and_counted():
    """In keys and values, however deep; whole pairs and all else stay as they are."""
    value = parse_json(r'{"a\ud800": ["x\udc00y\ud83d", 1, null, {"b": "\ud83d\ude00"}], "c": "d"}')
    assert whole(value) == (
        {"a\ufffd": ["x\ufffdy\ufffd", 1, None, {"b": "\U0001f600"}], "c": "d"}, 3,
    )  # fmt: skip
    assert whole(["\x00\u2028\ufeff"]) == (["\x00\u2028\ufeff"], 0)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("\x1b[2Jx\x00\x9b", r"\x1b[2Jx\x00\x9b"),
        ("a\r\nb\tc", "a\\r\nb\tc"),
        ("a\u2028b\u0085c", r"a\u2028b\x85c"),
        ("\u202ea\u2069\u200f\u061c", r"\u202ea\u2069\u200f\u061c"),
        ("\ufeffa\ud800", r"\ufeffa\ud800"),
        ("e\u0301 \U0001f469\u200d\U0001f680 \u05d3 \u3000\u00a0", None),
    ],
)
def test_what_people_see_is_all_there_is(text, seen):
    """Nothing hidden is left; letters, spaces, joiners and accents of every script stay."""
    assert visible(text) == (text if seen is None else seen)
    assert not HIDDEN.search(visible(text))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a": 1, "b": 2, "a": 3}', "the key 'a' twice"),
        ("[NaN]", "NaN, which is not finite"),
        ("[-Infinity]", "-Infinity, which is not finite"),
        ("[1e999]", "1e999, which is not finite"),
        ("9" * 5000, "4300 digits"),
        ("[1,]", "Expecting value"),
    ],
)
def test_json_that_is_refused(text, reason):
    with pytest.raises(ValueError, match=reason):
        parse_json(text)


def test_json_that_is_read():
    assert parse_json('{"a": [1, -2.5e3, null, "\\u20ac"]}') == {"a": [1, -2500.0, None, "€"]}


@pytest.mark.parametrize("name", ["a", "model/config.json", "é/..x"])
def test_paths_inside(name):
    assert require_inside(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/etc/passwd",
        "..",
        "a/../b",
        "../a",
        "./a",
        "a//b",
        "a/",
        "a\\b",
        "a\0",
        "a\n",
        "x" * 256,
    ],
)
def test_paths_that_leave_or_are_none(name):
    with pytest.raises(ValueError, match="not a path inside"):
        require_inside(name)


def test_what_a_message_shows_is_short_and_never_fails():
    """`repr` of an integer of more than 4300 digits, or of a list without end, raises."""
    endless = []
    for _ in range(100_000):
        endless = [endless]
    for value in (10**5000, endless, "x" * 10_000):
        assert len(shown(value)) < 2 * MAX_SHOWN
    assert shown("a\x1b[2J") == r"'a\x1b[2J'"


def test_a_name_that_no_file_can_have_is_no_file(tmp_path):
    path = tmp_path / ("x" * 300)
    assert not is_file(path) and not is_folder(path)
    assert is_folder(tmp_path)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
HOSTILE = {
    "aliases that multiply": (BOMB, f"more than {MAX_NODES} values"),
    "merges that multiply": (BOMB.replace("[x, x", "[{k: x}, x") + "z: {<<: *i}", "more than"),
    "an alias to itself": ("a: &a [*a]", "line 1: refers to itself"),
    "deep nesting": ("[" * 100_000, f"deeper than {MAX_DEPTH}"),
    "deep blocks": ("- " * 100_000, f"deeper than {MAX_DEPTH}"),
    "a key twice": ("a: 1\nb: 2\na: 3", "line 3: the key 'a' occurs twice"),
    "a key of a number": ("1: a", "line 1: the key is a int, not a text"),
    "a key of a boolean": ("no: a", "the key is a bool"),
    "a key that is a list": ("? [a]\n: b", "the key is a seq"),
    "a huge integer": (f"a: {'9' * 5000}", "a number of 5000 characters"),
    "a huge hexadecimal": (f"a: 0x{'f' * 5000}", "a number of 5002 characters"),
    "an integer of 64 bits and one": ("a: 9223372036854775808", "more than 64 bits"),
    "no integer": ("a: !!int x", "'x' is not a valid int"),
    "no boolean": ("a: !!bool x", "'x' is not a valid bool"),
    "a date": ("a: 2001-01-01", "is a timestamp"),
    "no date": ("a: 2001-13-45", "is a timestamp"),
    "a binary": ("a: !!binary aGk=", "is a binary"),
    "a set": ("a: !!set {x}", "is a set"),
    "a Python object": ("a: !!python/object/apply:os.system [ls]", "is a python/object"),
    "an unknown tag": ("a: !evil x", "is a evil"),
    "half a pair": ('a: "\\ud800"', "control characters"),
    "a NUL": ('a: "\\0"', "control characters"),
    "a terminal's escape": ('a: "\\e[2J"', "control characters"),
    "a reversed line": ("a: x\u202ey", "control characters"),
    "a control character in a key": ('"\\x07": 1', "control characters"),
    "an alias without anchor": ("a: *b", "undefined alias"),
    "two documents": ("a: 1\n---\nb: 2", "is not YAML"),
    "a tag where none may be": ("!!str {a: 1}", "is a str"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_yaml_is_refused_with_its_reason(tmp_path, name):
    """The same by `atu check`."""
    text, reason = HOSTILE[name]
    with pytest.raises(ValueError, match=reason):
        parse_yaml(text)
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"params\.yaml.*{reason}"):
        load_params(path)


@pytest.mark.parametrize("name", ["a key twice", "a date", "a set", "half a pair"])
def test_the_safe_loader_alone_would_read_it(name):
    """What the checks above add."""
    yaml.safe_load(HOSTILE[name][0])


def test_ordinary_yaml_is_read_as_the_safe_loader_does():
    text = "a: &x {k: 1.0e-3}\nb: *x\nc:\n  <<: *x\n  k: null\nd: [yes, 'no', -7, .inf, '1', é]\n"
    assert parse_yaml(text) == yaml.safe_load(text)
    assert parse_yaml("") is None


@pytest.mark.parametrize(
    ("content", "reason"), [(b"\xff\xfe", "utf-8"), (b"#" * (2**20 + 1), "larger than the 1 MB")]
)
def test_a_file_that_is_no_text_or_too_large(tmp_path, content, reason):
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=reason):
        load_params(path)


def test_a_device_without_end_is_not_read_to_its_end():
    from pathlib import Path

    with pytest.raises(ConfigError, match="larger than the 1 MB"):
        load_params(Path("/dev/zero"))
