from atu.methods.shared.counting import Counter


def test_steps_are_counted_through_stretches():
    """A stretch that begins at step 3, resumed after two."""
    counter = Counter(3)
    assert [counter.next(), counter.next()] == [3, 4]
    counter.seek(2)
    assert counter.next() == 5
