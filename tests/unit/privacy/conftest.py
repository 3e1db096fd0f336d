import numpy as np
import pytest

from atu.inference.scoring import TokenScores


@pytest.fixture(scope="session")
def tokens():
    """A function that gives the scores of one text; what is not given is of no interest."""

    def make(log_probs, matches=None, mean=None, std=None):
        count = len(log_probs)
        return TokenScores(
            log_probs=np.array(log_probs),
            matches=np.array(matches if matches is not None else [True] * count),
            mean=np.array(mean if mean is not None else [-1.0] * count),
            std=np.array(std if std is not None else [1.0] * count),
        )

    return make
