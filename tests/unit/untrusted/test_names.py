"""Names in texts: found in every spelling, not inside words, with what else a text calls them."""

import json
import unicodedata

import pytest

from atu.untrusted.names import (
    aliases_of,
    has_name,
    name_runs,
    name_spans,
    replace_names,
    short_names,
)


@pytest.mark.parametrize(
    ("text", "names", "found"),
    [
        ("J.K. Bell, J. K. Bell, J K Bell, JK Bell", ["J. K. Bell"],
         ["J.K. Bell", "J. K. Bell", "J K Bell", "JK Bell"]),
        ("J. K. Bell", ["J.K. Bell"], ["J. K. Bell"]),
        ("Zoë", ["Zoe\u0308"], ["Zoë"]),
        ("So Zoe\u0308 ran", ["Zoë"], ["Zoe\u0308"]),
        ("Zoe's", ["Zoë"], ["Zoe"]),
        ("O\u2019Dee, O'Dee", ["O'Dee"], ["O\u2019Dee", "O'Dee"]),
        ("Yun-Hwa, Yun\u2011Hwa, Yun Hwa", ["Yun-Hwa"], ["Yun-Hwa", "Yun\u2011Hwa", "Yun Hwa"]),
        ("Ann\u00a0Bell and Ann\nBell", ["Ann Bell"], ["Ann\u00a0Bell", "Ann\nBell"]),
        ("Bo Day Jr, Bo Day Jr.", ["Bo Day Jr."], ["Bo Day Jr", "Bo Day Jr"]),
        ("Prince Bo Duke of X", ["Prince Bo, Duke of X"], ["Prince Bo Duke of X"]),
        ("Anna, McAnn, Ann1, Ann", ["Ann"], ["Ann"]),
        ("Ann, Ann-like, Ann's, (Ann)", ["Ann"], ["Ann"] * 4),
        ("\u5b54\u5b50\u8bf4Ann\u8bf4", ["\u5b54\u5b50", "Ann"], ["\u5b54\u5b50", "Ann"]),
        ("Ann Bell and Bell", ["Bell", "Ann Bell", "Ann"], ["Ann Bell", "Bell"]),
        ("Nguye\u0302\u0303n", ["Nguy\u1ec5n"], ["Nguye\u0302\u0303n"]),
        ("\u1100\u1161\u11a8\u1100", ["\uac01"], ["\u1100\u1161\u11a8"]),
        ("\u212bngstr\u00f6m", ["A\u030angstro\u0308m"], ["\u212bngstr\u00f6m"]),
        ("\u05d3\u05bc\u05b8x", ["\u05d3\u05b8\u05bc"], ["\u05d3\u05bc\u05b8"]),
        ("ann bell", ["Ann Bell"], []),
        ("a.n", ["A.n", "(", "", ". ."], []),
    ],
)  # fmt: skip
def test_where_names_stand(text, names, found):
    assert [text[a:b] for a, b in name_spans(text, names)] == found
    assert has_name(text, names) is bool(found)


def test_a_span_is_of_the_text_as_it_is_written():
    """Also behind letters of several characters: a swap leaves everything else as it is."""
    text = unicodedata.normalize("NFD", "Äö met Zoë Ü.")
    assert replace_names(text, ["Zoë"], "Bo") == unicodedata.normalize("NFD", "Äö met Bo Ü.")
    assert replace_names("Ann Bell's, Bell, Bella", ["Bell", "Ann Bell"], "X") == "X's, X, Bella"


def test_runs_of_words_that_may_be_names():
    """The docstring's example; a comma, a genitive and a full stop behind a word end a run."""
    text = "While Femke van der Veen met J.K. Bo (Al) Day's cat"
    assert list(name_runs(text)) == [["Femke", "van", "der", "Veen"],
                                     ["J", "K", "Bo", "(Al)", "Day"]]  # fmt: skip
    assert list(name_runs("Ann, Bo. Cy's Dee van")) == [["Ann"], ["Bo"], ["Cy"], ["Dee"]]


TEXTS = ["Bell sang.", "When Bell sang, Ann Mary Bell was old.", "Ann Mary Bell", "A. Bell", "Bell"]


@pytest.mark.parametrize(
    ("name", "texts", "others", "aliases"),
    [
        # The surname is alone in 3 of 5 texts, "Ann Mary Bell" is in 2, "A. Bell" in 1 only.
        ("Ann Bell", TEXTS, [], ["Ann Mary Bell", "Bell"]),
        ("Ann Bell", TEXTS, ["Cy Bell"], ["Ann Mary Bell"]),
        ("Ann Bell", TEXTS[:1] + ["Bo Bell"] * 3, [], []),
        ("A. M. Bell", TEXTS, [], ["Ann Mary Bell", "Bell"]),
        # Somebody else of that name, and a thing that is named after it.
        ("Ann Bell", ["Bo Bell and the Bell Prize"] * 4, [], []),
        ("Ann van Dee", ["Ann and Bo van Dee"] * 4, [], ["Ann"]),
        (
            "Prince Bo, Duke of X",
            ["The Prince", "Bo", "Prince Bo", "Bo, Prince"],
            [],
            ["Prince Bo"],
        ),
        ("Prince Bo, Duke of X", ["The Prince and Bo"] * 3, [], ["Prince Bo", "Bo"]),
        ("Bo Day Jr.", ["Day"] * 3, [], ["Day"]),
        ("Zoë", ["Zoë Day"] * 3, [], []),
    ],
)
def test_what_else_texts_call_somebody(name, texts, others, aliases):
    assert aliases_of(name, texts, others)[1:] == aliases


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_aliases_are_the_same_in_every_normal_form(form):
    texts = [unicodedata.normalize(form, "Ána Öst und Öst")] * 3
    assert aliases_of(unicodedata.normalize(form, "Ána Öst"), texts) == ["Ána Öst", "Öst"]


def test_real_texts_name_their_person(real_data):
    """Exactly, 16 % of the texts about one of the ten people do; by any of the names, of nobody
    fewer than 99 %, and one of the 5,820 texts is about somebody else. No alias is another
    person's."""
    shares, found = {}, {}
    for folder in sorted((real_data / "rwku/Target").iterdir()):
        name = folder.name.split("_", 1)[1].replace("_", " ")
        rows = json.loads((folder / "positive_phi.json").read_text(encoding="utf-8"))
        texts = [row["text"] for row in rows]
        found[name] = aliases_of(name, texts)
        shares[name] = [
            sum(hits) / len(texts)
            for hits in ([name in t for t in texts], [has_name(t, found[name]) for t in texts])
        ]
    assert min(exact for exact, _ in shares.values()) == pytest.approx(0.156, abs=0.001)
    assert min(named for _, named in shares.values()) == pytest.approx(0.998, abs=0.001)
    assert found["J. K. Rowling"][1:] == ["Joanne Rowling", "Rowling"]
    assert found["Leonardo da Vinci"][1:] == ["Leonardo"]
    assert found["Prince Harry, Duke of Sussex"][1:] == ["Prince Harry", "Harry"]
    assert found["Stephen King"][1:] == ["Stephen Edwin King", "King"]


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("Ana Lu", ["Lu", "A. Lu"]),
        ("Sara Jo van Dyke", ["van Dyke", "S. J. van Dyke"]),
        ("Alejandro (Alex) Fuentes", ["Fuentes", "A. Fuentes"]),
        ("J. K. Rowling", ["Rowling", "J. K. Rowling"]),
        ("Robert Downey Jr.", ["Downey", "R. Downey"]),
        # A title has no initial; a suffix after a comma is no name.
        ("Prince Harry, Duke of Sussex", ["Harry", "Duke of Sussex"]),
        ("Robert Downey, Jr.", ["Downey", "R. Downey"]),
        ("Confucius", []),
    ],
)
def test_short_names(name, short):
    assert short_names(name) == short


def test_a_name_is_found_as_it_is_written():
    """Dots within a word are no initials'."""
    assert name_spans("It was will.i.am.", ["will.i.am"]) == [(7, 16)]
