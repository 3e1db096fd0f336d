import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atu.alignment.windows import INCOMPLETE, WindowTable, window_starts

# "a€b" as a byte-level LM sees it: BOS, a, the three bytes of the euro sign, b, EOS.
BYTES = [(0, 0), (0, 1), (1, 2), (1, 2), (1, 2), (2, 3), (3, 3)]
# The same text in an encoder's word pieces: a, ##€, ##b.
PIECES = [(0, 1), (1, 2), (2, 3)]


@pytest.mark.parametrize(
    ("k", "expected"),
    [
        (1, [0, 1, 2, 2, 2, -1, -1]),
        (2, [0, 1, -1, -1, -1, -1, -1]),
        (3, [0, -1, -1, -1, -1, -1, -1]),
        (4, [-1] * 7),
    ],
)
def test_multi_byte_character(k, expected):
    """BOS ends at 0: its window is the text from piece 0. a ends at 1: from piece 1. Each byte of
    the euro sign ends at 2: from piece 2, b. b and EOS end at 3: nothing follows. A window from
    piece i is complete when i + k <= 3."""
    assert window_starts(BYTES, PIECES, k) == expected


def test_the_byte_tokenizer_has_these_offsets(byte_tokenizer):
    encoded = byte_tokenizer("a€b", return_offsets_mapping=True)
    assert [tuple(offset) for offset in encoded["offset_mapping"]] == BYTES[:-1]


def test_a_piece_that_began_inside_the_token_is_left_out():
    """ "the cat sat": the LM token " ca" (3, 6) ends inside the piece "cat" (4, 7), so its window
    starts at "sat" (8, 11). "the" (0, 3) starts at "cat": the space belongs to neither piece."""
    lm = [(0, 3), (3, 6), (6, 7), (7, 11)]
    pieces = [(0, 3), (4, 7), (8, 11)]
    assert window_starts(lm, pieces, 1) == [1, 2, 2, INCOMPLETE]


@pytest.mark.parametrize(("lm", "pieces"), [([], PIECES), (BYTES, [])])
def test_empty_texts(lm, pieces):
    assert window_starts(lm, pieces, 1) == [INCOMPLETE] * len(lm)


def test_the_references_windows_start_inside_a_word():
    """ " ca" (3, 6) ends inside "cat" (4, 7), which starts its window there; "t" ends with it."""
    lm = [(0, 3), (3, 6), (6, 7), (7, 11)]
    pieces = [(0, 3), (4, 7), (8, 11)]
    assert window_starts(lm, pieces, 1, reference_compat=True) == [1, 1, 2, INCOMPLETE]


@st.composite
def cuts(draw, length, gaps):
    """A text of `length` characters cut into tokens; with `gaps`, some characters in no token."""
    points = sorted({0, length, *draw(st.lists(st.integers(0, length), max_size=12))})
    tokens = list(itertools.pairwise(points))
    return [t for t in tokens if not gaps or draw(st.booleans())]


@st.composite
def cases(draw):
    length = draw(st.integers(0, 20))
    lm = draw(cuts(length, gaps=False))
    repeated = [t for t in lm for _ in range(draw(st.integers(1, 3)))]
    framed = [(0, 0), *repeated, (length, length)]
    return framed, draw(cuts(length, gaps=True)), draw(st.integers(1, 4))


@pytest.mark.parametrize("compat", [False, True])
@given(case=cases())
def test_against_brute_force(compat, case):
    """For each LM token on its own: search all pieces for the first that begins at or after its
    end (as the reference: that ends after it), and look whether k are left. BOS, EOS and repeated
    offsets (bytes of one character) are among the tokens, spaces among the gaps."""
    lm, pieces, k = case
    expected = []
    for _, end in lm:
        later = [
            i for i, piece in enumerate(pieces) if (piece[1] > end if compat else piece[0] >= end)
        ]
        expected.append(later[0] if len(later) >= k else INCOMPLETE)
    assert window_starts(lm, pieces, k, compat) == expected


def test_table_numbers_each_distinct_window_once():
    """Windows of 2 over 7 8 7 8: (7, 8), (8, 7), (7, 8) are numbers 0, 1, 0; in a second text
    (8, 7) is 1 again and (8, 8) new."""
    table = WindowTable(2, 2)
    assert table.add([7, 8, 7, 8], [0, 1, 2, INCOMPLETE]) == [0, 1, 0, INCOMPLETE]
    assert table.add([8, 8, 7], [0, 1]) == [2, 1]
    assert table.windows == [(7, 8), (8, 7), (8, 8)]


def test_a_window_at_a_texts_end_has_what_is_left():
    """Of 7 8 9, three windows of 2, the last of one token; of the text 9 that one again."""
    table = WindowTable(k=2, fewest=1)
    assert table.add([7, 8, 9], [0, 1, 2, INCOMPLETE]) == [0, 1, 2, INCOMPLETE]
    assert table.add([9], [0]) == [2]
    assert table.windows == [(7, 8), (8, 9), (9,)]


@given(st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=8), max_size=6))
def test_table_gives_back_every_window(texts):
    table = WindowTable(2, 2)
    numbered = [table.add(ids, range(len(ids) - 1)) for ids in texts]
    assert len(set(table.windows)) == len(table.windows)
    for ids, numbers in zip(texts, numbered, strict=True):
        assert [table.windows[n] for n in numbers] == list(itertools.pairwise(ids))


def test_a_share_leaves_out_the_same_windows_everywhere():
    """A window is in or out in every text; a larger share only adds to a smaller one."""
    ids = list(range(400))
    quarter, half, whole = (WindowTable(3, 3, share) for share in (0.25, 0.5, 1.0))
    starts = [*range(398), INCOMPLETE]
    numbers = quarter.add(ids, starts)
    assert numbers[-1] == INCOMPLETE
    assert quarter.add(ids, starts[::-1]) == numbers[::-1]
    assert [ids[at] for at, number in enumerate(numbers[:-1]) if number >= 0] == [
        window[0] for window in quarter.windows
    ]
    half.add(ids, starts)
    whole.add(ids, starts)
    assert set(quarter.windows) < set(half.windows) < set(whole.windows)
    assert 60 < len(quarter.windows) < 140 and len(whole.windows) == 398
