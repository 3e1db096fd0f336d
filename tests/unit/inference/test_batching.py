import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atu.errors import EvaluationError
from atu.inference.batching import BatchSize, map_in_batches


class Work:
    """Gives each item's number times ten; more than `fits` items do not fit."""

    def __init__(self, fits=100):
        self.fits, self.calls = fits, []

    def __call__(self, chosen):
        self.calls.append(list(chosen))
        if len(chosen) > self.fits:
            raise torch.OutOfMemoryError("too large")
        return [10 * number for number in chosen]


@given(
    st.lists(st.integers(0, 9), max_size=20),
    st.integers(1, 25),
    st.integers(1, 25),
)
def test_one_result_per_item_in_the_items_order(lengths, size, fits):
    """Whatever the lengths, the batch size and what fits."""
    found = map_in_batches(Work(fits), lengths, BatchSize(size), "x")
    assert found == [10 * number for number in range(len(lengths))]


def test_items_of_similar_length_are_batched():
    """From short to long, items of the same length in their order."""
    work = Work()
    map_in_batches(work, [4, 1, 3, 1, 6], BatchSize(2), "x")
    assert work.calls == [[1, 3], [2, 0], [4]]


def test_batches_have_at_most_so_many_tokens_with_their_padding():
    """Of 7: lengths 1 and 3 with its padding are 6, a further 3 would make it 9; 9 is alone."""
    work = Work()
    map_in_batches(work, [9, 1, 3, 3, 4], BatchSize(8), "x", tokens=7)
    assert work.calls == [[1, 2], [3], [4], [0]]


def test_out_of_memory_halves_the_batch_once_and_for_all():
    """Of a batch size 16 where 5 items fit: 16 and 8 fail, 4 works; the items that failed are done
    first. The next call with the same object begins with 4."""
    work, size = Work(fits=5), BatchSize(16)
    expected = [10 * number for number in range(20)]
    assert map_in_batches(work, [1] * 20, size, "x") == expected
    assert [len(chosen) for chosen in work.calls] == [16, 8, 4, 4, 4, 4, 4]
    assert size.value == 4
    assert map_in_batches(work, [1] * 20, size, "x") == expected
    assert [len(chosen) for chosen in work.calls[7:]] == [4] * 5


def test_a_short_batch_that_does_not_fit_is_halved_too():
    """3 items at batch size 16, 2 fit: 16, 8 and 4 all hold the 3."""
    work, size = Work(fits=2), BatchSize(16)
    assert map_in_batches(work, [1] * 3, size, "x") == [0, 10, 20]
    assert [len(chosen) for chosen in work.calls] == [3, 3, 3, 2, 1]
    assert size.value == 2


def test_a_single_item_that_does_not_fit_is_an_error():
    size = BatchSize(2)
    work = Work(fits=0)
    with pytest.raises(torch.OutOfMemoryError, match="too large"):
        map_in_batches(work, [1, 1], size, "x")
    assert [len(chosen) for chosen in work.calls] == [2, 1] and size.value == 1


@pytest.mark.parametrize(("value", "half"), [(16, 8), (5, 2), (2, 1), (1, 1)])
def test_half_of_a_batch_size_is_at_least_one(value, half):
    size = BatchSize(value)
    size.halve()
    assert size.value == half


@pytest.mark.parametrize("results", [[], [1], [1, 2, 3]])
def test_a_wrong_number_of_results_is_refused(results):
    with pytest.raises(EvaluationError, match=rf"answers: {len(results)} results for 2 items"):
        map_in_batches(lambda _: results, [1, 1], BatchSize(2), "answers")


@pytest.mark.parametrize("error", [RuntimeError, KeyError, EvaluationError])
def test_any_other_error_is_no_matter_of_size(error):
    """It ends the work at once."""
    calls = []

    def work(chosen):
        calls.append(chosen)
        raise error("broken")

    size = BatchSize(4)
    with pytest.raises(error, match="broken"):
        map_in_batches(work, [1] * 8, size, "x")
    assert len(calls) == 1 and size.value == 4


def test_no_items():
    assert map_in_batches(Work(fits=0), [], BatchSize(4), "x") == []
