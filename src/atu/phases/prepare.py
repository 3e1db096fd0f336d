"""prepare: corpora and probes from a benchmark.

The `shared` folder holds what all targets have in common (the whole corpus that models pretrain
on, and probes of everything); a target's folder holds its forget corpus, retain corpus and probes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from atu.artifacts import Artifact, write_folder, write_json
from atu.config import Prepare
from atu.data import worldtext
from atu.data.tables import PROBES, TEXTS, read_table, write_table
from atu.data.world import Fact, World, build_world
from atu.errors import ConfigError
from atu.seeding import generator, hash_fraction
from atu.targets import Target

PHASE = "prepare"
ROLES = ("target", "partner", "neighbour", "other", "general", "control")
"""Whose facts a probe asks for: `partner`s are asked in one breath with the target, `control`s are
about people whom no model ever saw."""
PER_FORM = {"question": 2}
"""Held-out phrasings of a neighbour's, other or general fact that are probed; 1 of other forms."""
OTHER_FORMS = ("question", "choice")
Rows = list[dict[str, Any]]


def run_shared(out: Path, section: Prepare) -> None:
    """Write `corpus.parquet`, `probes.parquet` and `world.json` of the whole world."""
    world = build_world(section.seed, section.people, section.holdout_people)
    with write_folder(
        out, PHASE, cell={"target": None}, params=section.model_dump(), inputs={}
    ) as job:
        corpus = worldtext.training_rows(world, section.seed)
        probes = knowledge_probes(world, section.seed)
        write_table(job.path("corpus.parquet"), corpus, TEXTS)
        write_table(job.path("probes.parquet"), probes, PROBES)
        write_json(job.path("world.json"), asdict(world))
        job.metrics = {
            "prepare/people/all": len(world.people),
            "prepare/facts/all": len(world.facts),
            "prepare/general_facts/all": len(world.general),
            "prepare/texts/all": len(corpus),
        }


def run_target(out: Path, section: Prepare, target: Target, shared: Artifact) -> None:
    """Write one request's corpora (`forget`, `retain`, and `holdout`, which no model ever sees) and
    `probes.parquet`.
    """
    world = build_world(section.seed, section.people, section.holdout_people)
    rows = read_table(shared.file("corpus.parquet"))
    with write_folder(
        out,
        PHASE,
        cell={"target": target.label, "names": list(target.names), "new": list(target.new)},
        params=section.model_dump(),
        inputs={"shared": shared},
    ) as job:
        forget = worldtext.forget_rows(rows, target.new)
        retain = worldtext.retain_rows(rows, target.names)
        holdout = worldtext.holdout_rows(world, section.seed)
        probes = target_probes(world, target.names, section)
        write_table(job.path("forget.parquet"), forget, TEXTS)
        write_table(job.path("retain.parquet"), retain, TEXTS)
        write_table(job.path("holdout.parquet"), holdout, TEXTS)
        write_table(job.path("probes.parquet"), probes, PROBES)
        job.metrics = {
            "prepare/forget_texts/all": len(forget),
            "prepare/retain_texts/all": len(retain),
            "prepare/holdout_texts/all": len(holdout),
        } | {
            f"prepare/probes_{role}/{split}": sum(
                p["role"] == role and p["split"] == split for p in probes
            )
            for role in ROLES
            for split in ("select", "report")
        }


def knowledge_probes(world: World, seed: int) -> Rows:
    """Held-out phrasings of every fact: one plain question, and one of another form by hash."""
    rows = []
    for fact in (*world.facts, *world.general):
        held_out = [p for p in worldtext.probes(world, fact, "all", seed) if not p["seen"]]
        questions = [p for p in held_out if p["form"] == "question"]
        others = [p for p in held_out if p["form"] != "question"]
        rows.append(questions[0])
        rows.append(others[int(hash_fraction(fact.id, "knowledge") * len(others))])
    return rows


def target_probes(world: World, names: Sequence[str], section: Prepare) -> Rows:
    """Every form of the targets' facts; held-out phrasings of neighbours, others and general facts;
    and questions about the holdout people.

    Probes of other people that name a target, or whose answer needs a fact about one, are left
    out: an oracle could not answer them.

    Raises:
        ConfigError: everybody is a target or a neighbour.
    """
    seed = section.seed
    known = [fact for name in names for fact in world.about(name)]
    rows = [
        probe
        for probe in _probes_of(world, known, "target", seed)
        if probe["role"] == "target" or not set(names) & {probe["subject"], *probe["needs"]}
    ]
    neighbours = sorted(
        {near for name in names for near in world.neighbours(name)} - set(names),
        key=world.people.index,
    )
    near = [fact for name in neighbours for fact in world.about(name)]
    rows += _held_out(_probes_of(world, near, "neighbour", seed), names)
    strangers = [f for f in world.facts if f.subject not in (*names, *neighbours)]
    if not strangers:
        raise ConfigError(
            "prepare.people",
            section.people,
            f"beside {', '.join(names)} and their {len(neighbours)} neighbours nobody is left to "
            "be asked about as other people; raise it",
        )
    order = generator(seed, "others", *names).permutation(len(strangers))
    chosen = [strangers[i] for i in sorted(order[: section.other_facts])]
    other = _held_out(_probes_of(world, chosen, "other", seed), names)
    rows += [p for p in other if p["form"] in OTHER_FORMS]
    rows += _held_out(_probes_of(world, list(world.general), "general", seed), names)
    rows += _probes_of(world, list(world.holdout_facts), "control", seed)
    return rows


def _probes_of(world: World, facts: list[Fact], role: str, seed: int) -> Rows:
    return [probe for fact in facts for probe in worldtext.probes(world, fact, role, seed)]


def _held_out(rows: Rows, names: Sequence[str]) -> Rows:
    """The first held-out phrasings per form and fact that need none of the targets."""
    kept: Rows = []
    counts: dict[tuple[str, str], int] = {}
    for row in rows:
        key = (row["fact"], row["form"])
        free = not any(name in row["needs"] or name in row["prompt"] for name in names)
        if row["seen"] or not free or counts.get(key, 0) >= PER_FORM.get(row["form"], 1):
            continue
        counts[key] = counts.get(key, 0) + 1
        kept.append(row | {"wrong": [value for value in row["wrong"] if value not in names]})
    return kept
