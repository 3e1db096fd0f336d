from atu.methods.shared.counting import CountedLoss


def test_steps_are_counted_through_stages_and_from_a_checkpoint():
    """A stage that begins at step 3, and goes on after 2 of its own."""
    loss = CountedLoss(lambda number: number, 3)
    assert [loss(), loss()] == [3, 4]
    loss.seek(2)
    assert loss() == 5
