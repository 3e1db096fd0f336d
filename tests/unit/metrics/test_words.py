"""Words of any script, and ROUGE-L over them beside the official one."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atu.metrics.memorisation import muse_verbatim, muse_verbatim_fixed
from atu.metrics.muse_knowledge import muse_knowledge, muse_knowledge_fixed
from atu.metrics.rouge import is_blind
from atu.metrics.rwku_recall import is_blind as rwku_is_blind
from atu.metrics.rwku_recall import rwku_rouge_l_recall, rwku_rouge_l_recall_fixed
from atu.metrics.tofu_recall import tofu_rouge_l_recall, tofu_rouge_l_recall_fixed
from atu.metrics.words import any_words, ascii_words, chunks, words

OFFICIAL = {
    tofu_rouge_l_recall: tofu_rouge_l_recall_fixed,
    muse_knowledge: muse_knowledge_fixed,
    muse_verbatim: muse_verbatim_fixed,
}
"""Scores on `rouge_score`'s own words, and their repaired versions."""
FIXED = [*OFFICIAL.values(), rwku_rouge_l_recall_fixed]
ASCII = st.text(st.characters(codec="ascii"), max_size=30)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It’s 1９47: 青い", ["it", "s", "1947", "青", "い"]),
        ("Cafe\u0301 d'été", ["café", "d", "été"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("العَرَبِيَّة ١٩٤٧", ["العربية", "1947"]),
        ("กรุงเทพ", ["ก", "รุ", "ง", "เ", "ท", "พ"]),
        ("red_brick O'Quent", ["red", "brick", "o", "quent"]),
        ("한국어 이름", ["한국어", "이름"]),
        ("青い川2号", ["青", "い", "川", "2", "号"]),
        ("so\u00adft می\u200cخواهم", ["soft", "میخواهم"]),
        ("...", []),
        ("\u0301", []),
    ],
)
def test_words(text, expected):
    """Marks stay with their letter; soft hyphens and joiners are not seen."""
    assert words(text) == expected


@given(ASCII)
def test_words_of_plain_text_are_rouges(text):
    assert words(text) == ascii_words(text) == any_words(text)


@given(st.text(max_size=20))
def test_words_do_not_depend_on_the_form_of_unicode(text):
    decomposed = unicodedata.normalize("NFD", text)
    assert words(decomposed) == words(text)


def test_chunks():
    assert chunks("an old  青い川-mill\nhere") == ["an", "old", "青", "い", "川", "-mill", "here"]


@given(ASCII, ASCII)
def test_the_repaired_score_is_the_official_one_where_that_is_not_blind(answer, gold):
    assert not is_blind(answer, gold)
    if words(gold):
        assert all(fixed(answer, gold) == score(answer, gold) for score, fixed in OFFICIAL.items())


@pytest.mark.parametrize(
    "text",
    ["Ольга Ветрозвон", "青い川の町", "الكاتبة نادية", "Élodie Marçon", "１９４７", "กรุงเทพ", "♟"],
)
def test_an_answer_in_any_script_is_itself(text):
    """And the official score, where it is built on `rouge_score`, is told blind."""
    assert all(fixed(text, text) == 1.0 for fixed in FIXED)
    assert all(fixed("no", text) == 0.0 for fixed in FIXED)
    assert is_blind(text, text) is (text != "♟")


@pytest.mark.parametrize(
    ("answer", "gold"),
    [("Cafe\u0301", "CAFÉ"), ("It’s", "it's"), ("Nineteen-ninety", "nineteen ninety")],
)
def test_one_spelling_in_two_ways(answer, gold):
    assert all(fixed(answer, gold) == 1.0 for fixed in FIXED)


def test_official_scores_of_the_same_cyrillic_answer():
    """0, and so it would be forgotten."""
    assert all(score("Ольга", "Ольга") == 0.0 for score in OFFICIAL)


@pytest.mark.parametrize(
    ("answer", "gold", "blind"),
    [
        ("Ilvara Quent", "O’Quent", False),
        ("the owl", "the Ольга", True),
        ("Ольга", "the owl", True),
        ("naïve", "owl", True),
        ("", "", False),
        ("…", "— “owl”", False),
    ],
)
def test_blindness(answer, gold, blind):
    """Where a word of either text is lost or split, not where only punctuation differs."""
    assert is_blind(answer, gold) is blind


@pytest.mark.parametrize(
    ("answer", "gold", "blind"),
    [("Ольга", "Ольга", False), ("青い川の町", "青い川", True), ("Cafe\u0301", "Café", True)],
)
def test_blindness_of_rwkus_score(answer, gold, blind):
    """It reads any letter, but words only between spaces, and letters only as they are encoded."""
    assert rwku_is_blind(answer, gold) is blind
    if blind:
        assert rwku_rouge_l_recall(answer, gold) == 0.0 < rwku_rouge_l_recall_fixed(answer, gold)


def test_english_words_are_stemmed_in_mixed_texts():
    """TOFU's stemmer cuts "clocks" to "clock"; MUSE has none."""
    assert tofu_rouge_l_recall_fixed("clocks Ольги", "clock Ольги") == 1.0
    assert muse_knowledge_fixed("clocks Ольги", "clock Ольги") == 0.5


def test_real_answers(real_data):
    """Of every eighth row of TOFU the repaired score is the official one wherever that is not
    blind, which it is of some answers; RWKU's and TOFU's answers are all themselves."""
    lines = (real_data / "tofu/full.json").read_text("utf-8").splitlines()[::8]
    rows = [json.loads(line) for line in lines]
    blind = 0
    for row in rows:
        pair = row["question"], row["answer"]
        blind += is_blind(*pair)
        assert tofu_rouge_l_recall_fixed(row["answer"], row["answer"]) == 1.0
        if not is_blind(*pair):
            assert tofu_rouge_l_recall_fixed(*pair) == tofu_rouge_l_recall(*pair)
    assert 0 < blind < len(rows)
    files = (real_data / "rwku/Target").glob("*/*_level[123].json")
    answers = {row["answer"] for file in files for row in json.loads(file.read_text("utf-8"))}
    assert len(answers) > 400
    assert all(rwku_rouge_l_recall_fixed(answer, answer) == 1.0 for answer in answers)
