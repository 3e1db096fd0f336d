import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atu.seeding import child_seed, generator, hash_fraction


def test_child_seed_is_the_first_63_bits_of_a_sha256():
    """`printf 7/align/init | sha256sum` begins dd466ee8cb68f65c; without its last bit."""
    assert child_seed(7, "align", "init") == 0xDD466EE8CB68F65C // 2


@given(st.integers(), st.lists(st.text(), max_size=3))
def test_child_seed_is_a_valid_seed(seed, names):
    value = child_seed(seed, *names)
    assert 0 <= value < 2**63
    assert value == child_seed(seed, *names)


def test_streams_differ_by_seed_name_and_order():
    paths = [(0, "a"), (1, "a"), (0, "b"), (0,), (0, "a", "b"), (0, "b", "a")]
    assert len({child_seed(*path) for path in paths}) == len(paths)


def test_a_stream_does_not_depend_on_other_draws():
    alone = generator(3, "batches").random(5)
    generator(3, "init").random(100)
    assert np.array_equal(generator(3, "batches").random(5), alone)
    assert not np.array_equal(generator(4, "batches").random(5), alone)


def test_hash_fraction_value():
    r"""`printf 'split\x1fa' | sha256sum` begins 55a8cd48d33486ae; over 2^64 that is .3346."""
    assert hash_fraction("split", "a") == 0x55A8CD48D33486AE / 2**64
    assert hash_fraction("split", "a") == pytest.approx(0.3346, abs=1e-4)


@given(st.lists(st.text(), min_size=1, max_size=3))
def test_hash_fraction_range(parts):
    assert 0 <= hash_fraction(*parts) < 1


def test_hash_fraction_keeps_parts_apart():
    assert hash_fraction("ab", "c") != hash_fraction("a", "bc")


def test_hash_fraction_is_uniform():
    """Of 4000 names each tenth of [0, 1) gets about 400: within 5 standard deviations of 19."""
    counts, _ = np.histogram([hash_fraction("x", str(i)) for i in range(4000)], 10, (0, 1))
    assert abs(counts - 400).max() < 95
