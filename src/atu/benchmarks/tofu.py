"""TOFU (Maini et al. 2024, arXiv 2401.06121): 200 invented authors in 4,000 questions.

A model is fine-tuned on all questions (`full`) and then asked to forget the last 1, 5 or 10 % of
them (`forget01`, `forget05`, `forget10`); the rest is `retain99`, `retain95` and `retain90`, on
which the oracle is trained. So any existing model can be fine-tuned here on the benchmark's corpus.

TOFU asks the training questions verbatim, so its probes count as held out although they are not.
Reworded are the form `synonym` (its `paraphrased_question`) and the answer that truth ratios are
based on (`paraphrased_answer`; for real authors and world facts, which are not in the corpus, the
answer itself, as in TOFU's code); and, beyond TOFU, the questions that call their author otherwise
(`shared/renamed.py`). TOFU's prompts are those of the fine-tuned chat model; here every model is
asked with `Question:` and `Answer:`, as in the rest of the project.

`authors` takes a part of TOFU that a small machine can train on, and keeps what TOFU can ask: its
forget sets are the last authors, and `retain_perturbed` asks about the first.

The forget sets are nested, so each request of a sequence covers only questions that no earlier
request did. TOFU names no author: a name is derived from an author's twenty questions.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from atu.benchmarks.base import (
    Aliases,
    Benchmark,
    Prepared,
    Rows,
    Select,
    Shared,
    members,
    other_names,
    probe_row,
    sentence_row,
)
from atu.benchmarks.shared.renamed import Subject, own_names, renamed
from atu.benchmarks.shared.source import Reader, Readers, asked_text, text_of
from atu.errors import SourceError
from atu.metrics.words import words
from atu.probes.prompts import format_prompt, join_answer
from atu.results.locks import Source
from atu.seeding import hash_fraction
from atu.untrusted.bounds import STRICT, Count
from atu.untrusted.names import FUNCTION_WORDS, PARTICLES, has_name, name_runs
from atu.untrusted.targets import Target

MEASURE = "tofu_rouge_l_recall@fixed-1"
STOPS = ()
"""An answer ends where the model ends it: TOFU scores every line of up to 200 tokens."""
SETS = {"01": "99", "05": "95", "10": "90"}
"""Per cent forgotten and retained, as TOFU writes them; each forget set is part of the next."""
TARGETS = tuple(f"forget{share}" for share in SETS)
QUESTIONS_PER_AUTHOR = 20
AUTHORS = 200
ONE_IN = 10
"""One author in so many is in the largest forget set; `full` has them last."""
Authors = Mapping[tuple[str, str], str]
"""Question and answer to the author's name: one question is asked about two authors."""
SPLIT = "train"
"""The only split of every table."""
NEARLY = 0.75
"""A full name is about as frequent as its parts, a genre of more words less so."""
RETAINED_SETS = {"retain": "other", "real_authors": "neighbour", "world_facts": "general"}
"""TOFU's sets beside the forget set, as our roles (see `privacy/answers.ROLES`)."""

ASKS_WHO = re.compile(
    r"(?:name of|[Ww]ho is) (?:the|this) "
    r"((?:[^\s?]+ ){0,6}?(?:author|writer)\b(?!['\u2019]s)[^?]*)\?"
)
"""A question for an author's name, and what it says of the author: "author born in Ur" of "What is
the full name of the author born in Ur?"."""
PARAPHRASED = ("target", "other")
"""Roles whose answers were trained, so that truth ratios need a paraphrase."""


@dataclass(frozen=True)
class Settings:
    """Where TOFU is, and which part of it to use."""

    __pydantic_config__ = STRICT
    benchmark: Literal["tofu"]
    source: Source
    holdout: Annotated[
        bool,
        Field(
            description="read holdout01, 05 and 10, which no model is trained on, if it has them"
        ),
    ]
    concepts: Annotated[
        list[str],
        Field(description="texts that name what is forgotten; []: the authors' names"),
    ]
    select: Select
    aliases: Aliases = field(default_factory=dict)
    authors: Annotated[
        int | None,
        Field(
            ge=2 * ONE_IN,
            le=AUTHORS,
            description="use so many of the 200 authors: a tenth of them from the end of TOFU, "
            "where its forget sets are, the others from its beginning; null: all",
        ),
    ] = None
    questions: Annotated[
        Count | None,
        Field(
            description="ask at most so many questions of each set beside the forget set, chosen "
            "by hash; null: all"
        ),
    ] = None


def shared(settings: Settings, readers: Readers) -> Shared:
    """Every question as a training text; the probes are those with wrong answers."""
    reader = readers["source"]
    rows = reader.table("full", SPLIT)
    authors = authors_of(rows)
    used = _used(rows, settings.authors)
    tables = {TARGETS[-1]: "target", "retain": RETAINED_SETS["retain"]}
    probes = [
        p
        for name, role in tables.items()
        for p in _probes(reader, name, role, authors, used, settings)
    ]
    corpus = _texts(rows, "full", authors, used)
    return Shared(corpus, [p for p in probes if p["form"] == "question"])


def prepare(settings: Settings, target: Target, corpus: Rows, readers: Readers) -> Prepared:
    """The questions of the forget and the retain set, and all of TOFU's probes."""
    reader = readers["source"]
    used = {(row["fact"], row["answer"]) for row in corpus}
    authors = {(row["fact"], row["answer"]): row["names"][0] for row in corpus if row["names"]}
    largest, earlier = _share(target.new), _share(target.earlier) if target.earlier else None
    before = reader.table(f"forget{earlier}", SPLIT) if earlier else []
    new = [row for row in reader.table(f"forget{largest}", SPLIT) if row not in before]
    _require_all(new, used, f"forget{largest}", settings)
    forget = _texts(new, f"forget{largest}", authors)
    retained = f"retain{SETS[_share(target.names)]}"
    retain = _texts(reader.table(retained, SPLIT), retained, authors, used)
    held_out = reader.table(f"holdout{largest}", SPLIT) if settings.holdout else []
    holdout = [row | {"split": "holdout"} for row in _texts(held_out, f"holdout{largest}", {})]
    asked = f"forget{_share(target.names)}"
    probes = list(_probes(reader, asked, "target", authors, used, settings))
    for name, role in RETAINED_SETS.items():
        probes += _probes(reader, name, role, authors, used, settings)
    new_names = tuple(dict.fromkeys(name for row in forget for name in row["names"]))
    also = _other_names(corpus, [*new_names, *_asked_about(probes)], settings)
    probes += _renamed(corpus, also, probes)
    return Prepared(
        concepts=tuple(settings.concepts or new_names),
        aliases=tuple(alias for name in new_names for alias in also[name]),
        forget=forget,
        retain=retain,
        holdout=holdout,
        members=members(forget=forget, retain=retain, holdout=holdout),
        probes=probes,
    )


def _asked_about(probes: Rows) -> list[str]:
    """The authors whom the target's questions are about."""
    return [p["subject"] for p in probes if p["role"] == "target" and p["subject"]]


def _other_names(
    corpus: Rows, names: Sequence[str], settings: Settings
) -> dict[str, tuple[str, ...]]:
    """What else texts call these authors (`base.other_names`)."""
    about: dict[str, list[str]] = {}
    for row in corpus:
        for name in row["names"]:
            about.setdefault(name, []).append(row["text"])
    mine = {name: about[name] for name in dict.fromkeys(names)}
    others = [name for name in about if name not in mine]
    return other_names(mine, others, settings.aliases, about)


def _renamed(
    corpus: Rows, also: Mapping[str, Sequence[str]], probes: Rows
) -> Iterator[dict[str, Any]]:
    """The questions about these authors, who are called otherwise: by a name that no other author
    has, or by what a question for their name says of them (`ASKS_WHO`), if that is nobody else's.
    """
    told: dict[str, set[str]] = {}
    described: dict[str, list[str]] = {}
    for row in corpus:
        name = row["names"][0] if row["names"] else ""
        told.setdefault(name, set()).update(words(row["text"]))
        asked = ASKS_WHO.search(row["fact"])
        if name in also and asked and has_name(row["answer"], [name]):
            described.setdefault(name, []).append(f"the {asked[1]}")
    for name, aliases in also.items():
        names = (name, *aliases)
        strangers = [told[other] for other in told if other != name]
        own = tuple(
            text
            for text in described.get(name, ())
            if not any(set(words(text)) - FUNCTION_WORDS <= known for known in strangers)
        )
        subject = Subject(names, own_names(names, filter(None, told)), own, "author")
        about = [p for p in probes if p["role"] == "target" and p["subject"] == name]
        yield from renamed(about, subject, format_prompt)


def targets(settings: Settings) -> Sequence[str]:
    """The forget sets, of `authors` those whose authors are all used."""
    forgotten = (settings.authors or AUTHORS) // ONE_IN
    return tuple(f"forget{share}" for share in SETS if int(share) * AUTHORS <= forgotten * 100)


BENCHMARK = Benchmark(Settings, shared, prepare, targets, trains=True, measures=(MEASURE,))


def _share(names: Sequence[str]) -> str:
    """The largest of these nested sets, as TOFU writes its per cent.

    Raises:
        SourceError: one is not a forget set of TOFU.
    """
    for name in names:
        if name not in TARGETS:
            raise SourceError(f"TOFU has no forget set {name!r}; it has {', '.join(TARGETS)}")
    return max(name.removeprefix("forget") for name in names)


Pairs = Set[tuple[str, str]]
"""Questions with their answers."""


def _used(rows: Rows, count: int | None) -> Pairs:
    """The pairs of `full` that are used: those of all authors, or of `count` of them."""
    last = (count or 0) // ONE_IN
    ends = len(rows) - last * QUESTIONS_PER_AUTHOR
    begins = ((count or 0) - last) * QUESTIONS_PER_AUTHOR if count else len(rows)
    return {
        (text_of(row, "question", "full"), text_of(row, "answer", "full"))
        for number, row in enumerate(rows)
        if number < begins or number >= ends
    }


def _require_all(rows: Rows, used: Pairs, table: str, settings: Settings) -> None:
    """Refuse a forget set of which `authors` leaves some out.

    Raises:
        SourceError: names the set.
    """
    if not all((row["question"], row["answer"]) in used for row in rows):
        raise SourceError(
            f"prepare.authors: {settings.authors} leaves out authors of {table}; use more, or a "
            "smaller forget set"
        )


def _texts(rows: Rows, table: str, authors: Authors, used: Pairs | None = None) -> Rows:
    """The rows as training texts; with `used` only those of its pairs."""
    texts = [_text(row, authors, f"{table}, row {number}") for number, row in enumerate(rows)]
    return [text for text in texts if used is None or (text["fact"], text["answer"]) in used]


def _text(row: dict[str, Any], authors: Authors, where: str) -> dict[str, Any]:
    """A question and its answer as a training text, about its author if known."""
    question, answer = (text_of(row, key, where) for key in ("question", "answer"))
    prompt = format_prompt("question", question)
    return sentence_row(
        join_answer(prompt, answer),
        kind="author",
        form="question",
        prompt=prompt,
        answer=answer,
        fact=question,
        names=[authors[question, answer]] if (question, answer) in authors else [],
    )


def _probes(
    reader: Reader, name: str, role: str, authors: Authors, used: Pairs, settings: Settings
) -> Iterator[dict[str, Any]]:
    """TOFU's probes of one set: its questions, and paraphrases of those of a forget set. Of the
    authors those that are used, of a set beside the forget set at most `questions`.
    """
    sets = {target: {row["question"] for row in reader.table(target, SPLIT)} for target in TARGETS}
    rows = list(enumerate(reader.table(f"{name}_perturbed", SPLIT)))
    if settings.authors is not None and role in PARAPHRASED:
        rows = [(n, row) for n, row in rows if (row.get("question"), row.get("answer")) in used]
    if role != "target" and settings.questions is not None:
        rows.sort(key=lambda pair: hash_fraction("questions", str(pair[1].get("question"))))
        rows = sorted(rows[: settings.questions], key=lambda pair: pair[0])
    for number, row in rows:
        where = f"{name}_perturbed, row {number}"
        question, answer = (asked_text(row, key, where) for key in ("question", "answer"))
        author = authors.get((question, answer), "")
        wordings = {"question": question}
        if role == "target" and row.get("paraphrased_question"):
            wordings["synonym"] = text_of(row, "paraphrased_question", where)
        for form, wording in wordings.items():
            yield probe_row(
                f"{name}/{number}/{form}",
                role=role,
                subject=author,
                fact=question,
                form=form,
                kind=name.rstrip("0123456789"),
                query=wording,
                prompt=format_prompt(form, wording),
                answer=answer,
                wrong=_wrong(row, where),
                measure=MEASURE,
                stops=STOPS,
                paraphrased=_paraphrase(row, where) if role in PARAPHRASED else None,
                needs=[*filter(None, [author]), *(s for s in TARGETS if question in sets[s])],
                select=settings.select,
            )


def _paraphrase(row: dict[str, Any], where: str) -> str:
    return text_of(row, "paraphrased_answer", where)


def _wrong(row: dict[str, Any], where: str) -> list[str]:
    """The wrong answers to a question.

    Raises:
        SourceError: there is none, or one is not a string.
    """
    answers = row.get("perturbed_answer")
    if not isinstance(answers, list) or not answers or not all(isinstance(a, str) for a in answers):
        raise SourceError(f"{where}: `perturbed_answer` is not a list of texts")
    return answers


def authors_of(rows: Rows) -> dict[tuple[str, str], str]:
    """The author's name for every question and answer of `full`, which has twenty in a row per
    author; none for those about the one whom TOFU never names.

    Raises:
        SourceError: no author has a name.
    """
    author_of: dict[tuple[str, str], str] = {}
    pairs = [(text_of(row, "question", "full"), text_of(row, "answer", "full")) for row in rows]
    for start in range(0, len(pairs), QUESTIONS_PER_AUTHOR):
        block = pairs[start : start + QUESTIONS_PER_AUTHOR]
        name = shared_name([f"{question}\n{answer}" for question, answer in block])
        if name:
            author_of |= dict.fromkeys(block, name)
    if not author_of:
        raise SourceError("full: no author has a name; are the questions in TOFU's order?")
    return author_of


def shared_name(texts: Sequence[str]) -> str:
    """The name that most of the texts share; empty where not even half of them share one.

    Candidates are the runs of capitalised words that more than half of the texts have, or half of
    them where none is in more. Runs of one word count only where there is no longer one. Of those
    that are nearly as frequent as the most frequent (`NEARLY`), the longest is taken, then the most
    frequent, then the first.
    """
    counts: Counter[tuple[str, ...]] = Counter(run for text in texts for run in _runs(text))
    common = [run for run, count in counts.items() if 2 * count > len(texts)] or [
        run for run, count in counts.items() if 2 * count == len(texts)
    ]
    common = [run for run in common if len(run) > 1] or common
    most = max((counts[run] for run in common), default=0)
    frequent = [run for run in common if counts[run] >= NEARLY * most]
    longest = max(frequent, key=lambda run: (len(run), counts[run]), default=())
    return " ".join(longest)


def _runs(text: str) -> list[tuple[str, ...]]:
    """Every sequence of words that may be a name, with a capitalised word at both ends: "Did Ana
    van Lu's Sea" has Did, Did Ana, Did Ana van Lu, Ana, Ana van Lu, Lu and Sea.
    """
    runs = (
        tuple(run[start:stop])
        for run in name_runs(text)
        for start in range(len(run))
        for stop in range(start + 1, len(run) + 1)
    )
    return list(dict.fromkeys(run for run in runs if _may_be_name(run)))


def _may_be_name(run: Sequence[str]) -> bool:
    return all(word[0].isupper() for word in (run[0], run[-1])) and (
        run[-1].lower() not in PARTICLES
    )
