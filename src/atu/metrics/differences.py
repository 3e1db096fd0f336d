"""Where a number of ours differs from official code on purpose: the one list, with its reasons.

A golden case (`tests/unit/golden`) must equal the official value unless a line here names it; then
our value is stated in the test and must really differ. `docs/metrics.md` is generated from this.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Difference:
    """One deliberate difference to official code."""

    cases: tuple[str, ...]
    """Patterns (`fnmatch`) of the golden cases' ids."""
    official: str
    """What official code does."""
    ours: str
    """What we do instead."""
    reason: str

    def covers(self, case: str) -> bool:
        """Whether the case of this id is one of these."""
        return any(fnmatchcase(case, pattern) for pattern in self.cases)


DIFFERENCES: tuple[Difference, ...] = (
    Difference(
        cases=(
            "loss.simnpo.a_row_without_labels*",
            "loss.rmu.a_row_without_labels*",
            "loss.ceu.one_token_each_ignore_[1-9]*",
        ),
        official="A text, or a batch, of which no token is scored makes the loss 0 / 0 = NaN.",
        ours="It counts as 0.",
        reason="One such text must not end a run. `variant: open_unlearning` of RMU gives the NaN.",
    ),
    Difference(
        cases=("atu.hinge.padding*", "atu.ga.padded*", "atu.npo.padded*"),
        official="The reference's hinge is averaged over padding, and its GA and NPO train it.",
        ours="Real tokens only; `reference_compat` restores the hinge.",
        reason="How long the others of its batch are says nothing of a text.",
    ),
    Difference(
        cases=("atu.window.letters*", "atu.window.subwords_inside_an_encoder_token*"),
        official="A window starts with the encoder token inside which the LM token ends.",
        ours="It starts with the next one, but with `reference_compat` of `embed`.",
        reason="A predicted embedding is of text that the model has not read.",
    ),
)
