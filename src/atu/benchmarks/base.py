"""What a benchmark is: the tables it prepares for one target, and for all targets together."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from atu.benchmarks.shared.source import Readers
from atu.errors import SourceError, shown
from atu.probes.prompts import WHOLE
from atu.seeding import hash_fraction
from atu.untrusted.names import aliases_of, composed
from atu.untrusted.targets import Target

Rows = list[dict[str, Any]]
Select = Annotated[float, Field(gt=0, lt=1, description="share of the facts that choices may read")]
Aliases = Annotated[
    dict[str, list[str]],
    Field(
        description="per name, what else texts call it, instead of what is found in texts about it"
    ),
]
PassageWords = Annotated[
    int, Field(ge=1, description="maximum words of the passages that texts are cut into")
]
ROLES = ("target", "partner", "neighbour", "other", "general", "control")
"""Whose facts a probe asks for: `partner`s are asked in the same prompt as the target, `other`s
are unrelated to it, `general` facts concern nobody, `control`s are about people no model saw."""

END = re.compile(r"[.!?][\"')\]\u2019\u201d]*\s*$|\n")
"""Matches a word, with the whitespace after it, that ends a sentence or a line."""


@dataclass(frozen=True)
class Shared:
    """What all targets have in common."""

    corpus: Rows
    """Every text that a model can be trained on, in the columns of `TEXTS`; empty if models come
    trained."""
    probes: Rows
    """Questions that a trained model should answer, in the columns of `PROBES`."""
    facts: Any = None
    """Anything else for the reader, as JSON; None writes no file."""


@dataclass(frozen=True)
class Task:
    """Rows of a local utility task, in the schema of its kind (`inference/lm_eval_files.py`)."""

    kind: str
    rows: Rows


@dataclass(frozen=True)
class Prepared:
    """One request: its corpora, its questions, and the texts that name the concept."""

    concepts: tuple[str, ...]
    """Texts that name what is to be forgotten: the sentence encoder embeds them, and methods search
    the forget corpus for them."""
    forget: Rows
    retain: Rows
    holdout: Rows
    """Texts like the forget set's that no model ever saw; may be empty."""
    members: Rows
    """Texts for membership tests, in the columns of `MEMBERS`: `corpus` is forget, retain, holdout,
    or verbatim (texts whose continuation is compared word by word)."""
    probes: Rows
    aliases: tuple[str, ...] = ()
    """What else texts call it (`untrusted.names`): searched for, but not embedded."""
    tasks: Mapping[str, Task] = field(default_factory=dict)
    """Utility tasks that come with the target."""
    oracle: Rows | None = None
    """The oracle's training texts, if they are more than `retain`, which methods read."""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: its settings type, and the functions that prepare its tables.

    Every field of the settings that holds a `Source` has a reader under the field's name.
    """

    settings: type
    shared: Callable[[Any, Readers], Shared]
    prepare: Callable[[Any, Target, Rows, Readers], Prepared]
    """Called with the settings, the request, the shared corpus and the readers."""
    targets: Callable[[Any], Sequence[str]] | None = None
    """The valid target names, if the settings alone determine them."""
    trains: bool = False
    """Whether it has a corpus to train models on, with and without a target."""
    measures: tuple[str, ...] = field(kw_only=True)
    """Ids of the metrics that its probes are scored by (`probes/measures.py`). Named, not imported:
    an edited formula prepares nothing again, and reruns only what scores by it."""


def sentence_row(
    text: str,
    *,
    kind: str,
    form: str = "passage",
    prompt: str = "",
    answer: str = "",
    fact: str = "",
    names: Iterable[str] = (),
    split: str = "train",
) -> dict[str, Any]:
    """A row of `TEXTS`: one training text; only what follows `prompt` is scored."""
    return {
        "text": text,
        "prompt": prompt,
        "answer": answer,
        "fact": fact,
        "form": form,
        "type": kind,
        "split": split,
        "names": list(names),
    }


def other_names(
    texts_about: Mapping[str, Sequence[str]],
    others: Sequence[str],
    given: Mapping[str, list[str]],
    known: Iterable[str],
) -> dict[str, tuple[str, ...]]:
    """What else texts call each of these names: as given, or as found in the texts about it
    (`untrusted.names.aliases_of`).

    Args:
        others: names of other people, for whom none of these may be mistaken.
        known: every name that aliases can be given for.

    Raises:
        SourceError: aliases are given for another name.
    """
    written = {composed(name): aliases for name, aliases in given.items()}
    strange = sorted(written.keys() - set(map(composed, known)))
    if strange:
        raise SourceError(
            f"prepare.aliases: {shown(strange[0])} is no name of the benchmark; give it as it is "
            "there"
        )
    found: dict[str, tuple[str, ...]] = {}
    for name, texts in texts_about.items():
        strangers = [other for other in (*texts_about, *others) if other != name]
        aliases = written.get(composed(name))
        if aliases is None:
            aliases = aliases_of(name, texts, strangers)
        found[name] = tuple(alias for alias in dict.fromkeys(aliases) if alias != name)
    return found


def members(**corpora: Rows) -> Rows:
    """Texts for membership tests: `forget`, `retain`, `holdout` or `verbatim` rows of `TEXTS` in
    the columns of `MEMBERS`.
    """
    return [row | {"corpus": name} for name, rows in corpora.items() for row in rows]


def passages(text: str, words: int) -> list[str]:
    """Split a text into parts of at most `words` words. Each ends at its last complete sentence or
    line, or within a sentence that is longer.

    With 3 words "I am. You are. He was there too." gives "I am.", "You are.", "He was there" and
    "too.".
    """
    parts = []
    all_words = re.findall(r"\S+\s*", text)
    start = 0
    while start < len(all_words):
        next_words = all_words[start : start + words]
        ends = [i for i, word in enumerate(next_words, 1) if END.search(word)]
        is_rest = len(all_words) - start <= words
        cut = len(next_words) if is_rest else max(ends, default=words)
        parts.append("".join(next_words[:cut]).strip())
        start += cut
    return parts


def probe_row(
    identity: str,
    *,
    role: str,
    subject: str,
    fact: str,
    form: str,
    kind: str,
    query: str,
    prompt: str,
    answer: str,
    measure: str,
    stops: Sequence[str],
    select: float,
    phrasing: int = 0,
    options: Sequence[str] = (),
    wrong: Sequence[str] = (),
    paraphrased: str | None = None,
    needs: Sequence[str] | None = None,
    worst_of: int | None = None,
) -> dict[str, Any]:
    """A row of `PROBES`, in a wording that no training text uses.

    A hash of the fact decides its split, so all wordings of one fact are in the same split.

    Args:
        measure: id of the metric that compares an output with the answer (`probes/measures.py`).
        stops: strings before which an answer ends, besides the model's own end.
        select: share of the facts that choices may read.
        paraphrased: the answer in other words, if the benchmark has it.
        needs: what a model must know to answer; by default the subject.
        worst_of: of how many wordings of the fact the worst is reported (`metrics/worst_form.py`),
            where facts differ in how many they have; None for the worst of its forms, `ASIDE` for
            a wording that is not among them.
    """
    return {
        "id": identity,
        "role": role,
        "subject": subject,
        "fact": fact,
        "form": form,
        "type": kind,
        "phrasing": phrasing,
        "seen": False,
        "query": query,
        "options": list(options),
        "prompt": prompt,
        "part": WHOLE,
        "stops": list(stops),
        "answer": answer,
        "measure": measure,
        "wrong": list(wrong),
        "paraphrased": paraphrased,
        "needs": [subject] if needs is None else list(needs),
        "split": split_of(fact, select),
        "worst_of": worst_of,
    }


def split_of(fact: str, select: float) -> str:
    """`select` for this share of the facts, by hash, otherwise `report`."""
    return "select" if hash_fraction("split", fact) < select else "report"
