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
        ("rwku.forget_recall.*named_token*", "rwku.neighbour_recall.*named_token*"),
        "an answer ends at a line break if the tokenizer has a token of the name `\\n` (Gemma), "
        "and has all its lines otherwise (Llama 3, Phi-3)",
        "all lines, whatever the tokenizer",
        "the same answer would leak under one tokenizer and not under another",
    ),
    Difference(
        ("muse.knowmem.leading_*", "ou.rouge.leading_blank_line*"),
        "an answer that begins with a blank line is empty, hence forgotten",
        "white space before an answer does not end it",
        "the answer stands on the next line for every reader; chat models begin so",
    ),
    Difference(
        (
            "ou.mia_min_k.*",
            "ou.mia_min_k_plus_plus.*",
            "ou.auc_min_k.*end_token_only*",
            "rwku.membership.*all_equal*",
            "rwku.membership.*extreme*",
        ),
        "an answer of no token has the score 0, that of a certain member; RWKU's Min-K++ of a "
        "distribution without spread is infinite, or what rounding leaves",
        "no score, and no AUC counts it",
        "neither says anything about membership",
    ),
    Difference(
        ("rwku.mmlu.*tie*", "rwku.truthfulqa.*tie*"),
        "of equal options the first is the answer (MMLU), or a tie is no answer (MC1)",
        "each of n equal options has 1/n of the point",
        "a model that says the same to every question is at chance, wherever the right option is",
    ),
    Difference(
        ("rwku.mmlu.*as_text*",),
        "an index that the file writes as text is no option: never right",
        "it is read as the number that it is",
        "how a file writes a number says nothing of the model",
    ),
    Difference(
        (
            "tofu.option_probability.*underflow*",
            "tofu.truth_ratio_*_paper.*underflow*",
            "tofu.model_utility*.*underflow*",
            "rwku.truthfulqa.*underflow*",
            "rwku.mmlu.*underflow*",
        ),
        "probabilities that are all 0 as floats are divided: NaN; MMLU takes the first option",
        "their shares and their order, from the logarithms",
        "a ruined model must have a score; where official code has a number, ours is equal",
    ),
    Difference(
        ("ou.privleak.*",),
        "a retrained AUC of 1 is divided by 1e-10: PrivLeak of 1e11 per cent",
        "EvaluationError; the table leaves PrivLeak out",
        "forget and holdout texts differ in more than membership, and nothing can be said",
    ),
    Difference(
        (
            "loss.simnpo.a_row_without_labels*",
            "loss.rmu.a_row_without_labels*",
            "loss.ceu.one_token_each_ignore_[1-9]*",
        ),
        "a text, or a batch, of which no token is scored makes the loss 0 / 0 = NaN",
        "it counts as 0; RMU's `variant: open_unlearning` gives the NaN",
        "one such text must not end a run",
    ),
    Difference(
        ("atu.hinge.padding*", "atu.ga.padded*", "atu.npo.padded*"),
        "the reference's hinge is averaged over padding, and its GA and NPO train it",
        "real tokens only; `reference_compat` restores the hinge",
        "how long the other texts of a batch are says nothing of a text",
    ),
    Difference(
        ("atu.window.letters*", "atu.window.subwords_inside_an_encoder_token*"),
        "a window starts with the encoder token inside which the LM token ends",
        "it starts with the next one, but with `reference_compat` of `embed`",
        "a predicted embedding is of text that the model has not read",
    ),
)
