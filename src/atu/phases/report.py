"""report: tables with intervals, three figures and one HTML page, from every cell's results."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from atu.alignment.loop import layer_folder
from atu.config.dependencies import dependencies
from atu.config.params import Params, given_methods, method_notes, oracle_method
from atu.config.roles import ORIGINAL
from atu.errors import ArtifactError, visible
from atu.metrics.bootstrap import Estimate
from atu.metrics.oracle_distance import oracle_distance
from atu.metrics.registry import METRIC_ID
from atu.metrics.selection import selection
from atu.metrics.trust import ENOUGH, Trust
from atu.metrics.trust import FILE as TRUST
from atu.metrics.trust import write as write_trust
from atu.reporting import figures, marks, tables
from atu.reporting.attacker import attacker_columns, attacker_table, markdown_attacker
from atu.reporting.comparison import against_oracle, compared, comparison_table
from atu.reporting.cost import cost_table, flat_cost
from atu.reporting.distance import Distance, distances
from atu.reporting.evidence import Beside, evidence_of
from atu.reporting.headline import dominance, headline
from atu.reporting.items import load_attacks, load_documents, load_items, worst_note
from atu.reporting.meta import has_pools, meta_table
from atu.reporting.privacy import AUCS, TITLES, privacy_table
from atu.reporting.ranking import SELECTION, rankings, selections
from atu.reporting.requests import COLUMNS as REQUEST_COLUMNS
from atu.reporting.requests import requests_table
from atu.reporting.robustness import (
    SUMMARY,
    Shown,
    robustness_table,
    shown_columns,
    summary_table,
    with_notes,
)
from atu.reporting.searches import searches_table, trials_table
from atu.reporting.verdict import Verdict, verdict_of
from atu.results.artifacts import Artifact
from atu.results.files import read_json, write_json
from atu.results.items import BLIND, worst_of
from atu.results.jobs import Job, write_folder

PHASE = "report"
FIGURES = (
    "forget_retain.png", "leakage_by_form.png", "robustness.png", "trajectories.png",
)  # fmt: skip
EXAMPLES = 8
AUDIT = "audit.json"
"""The verdicts, with every number behind them."""
KNOWN = "pretrain/exact_match_known_question/held_out"
"""What a model that was trained here knows; a pinned one was not asked."""


@dataclass(frozen=True)
class ReportInputs:
    """The folders of every cell, in the same order, and those of the shared phases."""

    rephrase: list[Artifact]
    utility: list[Artifact]
    privacy: list[Artifact]
    unlearn: list[Artifact]
    align: list[Artifact]
    pretrain: list[Artifact]
    attack: list[Artifact]
    """Every attack on every cell; empty where the grid lists none."""
    search: list[Artifact]
    """The one table of all searches."""

    def of_targets(self, labels: Sequence[str]) -> ReportInputs:
        """The folders of these targets' cells, and what has no target."""
        kept = {
            name: [a for a in artifacts if a.cell.get("target", labels[0]) in labels]
            for name, artifacts in vars(self).items()
        }
        return ReportInputs(**kept)


@dataclass(frozen=True)
class Tables:
    """Everything the page, the figures and the CSV files show."""

    methods: list[str]
    notes: dict[str, str]
    """What a reader must know of a method before its numbers."""
    measure: str
    """Id of the metric that the answers are scored by."""
    worst: str
    """What its column of worst forms holds."""
    columns: dict[str, str]
    """Of the main table, those that the benchmark asks anything for."""
    rows: list[dict[str, Any]]
    """Of the main table, with `selection` and, where there is an oracle, the distance to it."""
    sentences: list[str]
    """What stands first on the page."""
    attacker_columns: dict[str, str]
    attacker: list[dict[str, Any]]
    forms: list[dict[str, Any]]
    comparison: list[dict[str, Any]]
    robustness: list[dict[str, Any]]
    shown: list[Shown]
    summary: list[dict[str, Any]]
    privacy: list[dict[str, Any]]
    privacy_titles: dict[str, str]
    """Of the lines that the privacy table has."""
    failed: dict[str, str]
    """By the key of a column or line, why its number is not to be trusted."""
    meta: list[Trust]
    """Which numbers can be trusted, where the grid has enough models to say."""
    requests: list[dict[str, Any]]
    cost: list[dict[str, Any]]
    searches: list[dict[str, Any]]
    trials: list[dict[str, Any]]
    points: Any
    utility: dict[tuple[str, str], dict[str, float]]
    items: Any
    verdicts: dict[str, Verdict]
    """Of every checkpoint that somebody else made, by the name of its model and method."""


def run(out: Path, params: Params, inputs: ReportInputs) -> None:
    """Write CSV tables, `table.md`, PNG figures and `report.html`."""
    require_same_cells(inputs, params.grid.attacks)
    require_same_evaluation(inputs)
    named = {
        f"{phase}/{number}": artifact
        for phase, artifacts in vars(inputs).items()
        for number, artifact in enumerate(artifacts)
    }
    section = params.report
    with write_folder(
        out,
        PHASE,
        cell={"experiment": params.experiment},
        params=dependencies(PHASE, section),
        inputs=named,
    ) as job:
        results = make_tables(params, inputs)
        _write_tables(job, results)
        _write_figures(job, results, params.experiment)
        _write_page(job, params, inputs, results)
        job.metrics = _metrics(results)


def make_tables(params: Params, inputs: ReportInputs) -> Tables:
    """All tables, from the cells' items. Requests for several names, and a sequence's first step
    where it is none of the grid's targets, have a table of their own: an average over unlike
    requests would say little about either.
    """
    section, attacks = params.report, params.grid.attacks
    methods = list(dict.fromkeys(a.cell["method"] for a in inputs.rephrase))
    everything = load_items(inputs.rephrase)
    several = [t for t in params.grid.requests() if t.label not in params.grid.targets]
    single = inputs.of_targets(params.grid.targets)
    items, documents = load_items(single.rephrase), load_documents(single.utility)
    attacked, utility = load_attacks(single.attack), tables.utility_means(single.utility)
    searched = read_json(inputs.search[0].file("search.json"))
    robust = robustness_table(items, attacked, section, params.attack, attacks, methods)
    privacy = privacy_table(single.privacy, section, methods)
    shown = [s for s in shown_columns(params.attack, attacks) if any(r[s.key].n for r in robust)]
    shown = with_notes(shown, attacked, params.attack, attacks, robust)
    columns, measure = tables.asked_columns(items), items["measure"][0]
    titles = columns | {s.key: s.title for s in shown}
    titles |= {name: title for name, title in TITLES.items() if name in privacy[0]}
    failed = marks.failed_titles(titles, measure, params.attack, attacks, attacked)
    titles = marks.marked(titles, failed)
    seen = attacker_columns(robust, privacy, params.attack, attacks)
    oracle = oracle_method(params)
    far = distances(items, documents, utility, section, methods, oracle)
    rows = tables.main_table(items, section, methods)
    against = against_oracle(items, section, methods, oracle)
    evaluated = [*single.rephrase, *single.privacy, *single.attack]
    return Tables(
        methods=methods,
        notes=method_notes(params, methods),
        measure=measure,
        worst=worst_note(items),
        columns={key: titles[key] for key in columns},
        rows=_judged(rows, selections(rows, items), far),
        sentences=[*dominance(rows, section.compare), *headline(rows, against)],
        attacker_columns=seen,
        attacker=attacker_table(robust, privacy, seen),
        forms=tables.form_table(items, section, methods),
        comparison=comparison_table(items, section, methods, oracle, far),
        robustness=robust,
        shown=[replace(s, title=titles[s.key]) for s in shown],
        summary=summary_table(attacked, params.attack, attacks, methods, oracle, single.attack),
        privacy=privacy,
        privacy_titles={name: titles[name] for name in TITLES if name in titles},
        failed=failed,
        meta=meta_table(evaluated, params) if has_pools(params) else [],
        requests=requests_table(everything, section, methods, several),
        cost=cost_table(single.unlearn, searched),
        searches=searches_table(searched),
        trials=trials_table(searched),
        points=tables.trajectory_table(single.unlearn),
        utility=utility,
        items=items,
        verdicts=_verdicts(params, methods, items, attacked, documents, utility, privacy),
    )


def _judged(
    rows: Sequence[Mapping[str, Any]],
    scores: Sequence[float | None],
    far: Mapping[tuple[str, str], Distance],
) -> list[dict[str, Any]]:
    """The rows with their `selection` and their distance to the oracle."""
    return [
        {**row, SELECTION: score}
        | ({tables.DISTANCE: far[row["model"], row["method"]].estimate} if far else {})
        for row, score in zip(rows, scores, strict=True)
    ]


def _verdicts(
    params: Params,
    methods: Sequence[str],
    items: Any,
    attacked: Any,
    documents: Any,
    utility: Mapping[tuple[str, str], Mapping[str, float]],
    privacy: Sequence[Mapping[str, Any]],
) -> dict[str, Verdict]:
    """The verdict on every checkpoint that somebody else made."""
    found = {}
    for model in params.grid.models:
        beside = Beside(model, methods, items, attacked, documents, params.report)
        for name in given_methods(params):
            evidence = evidence_of(
                beside, name, utility, privacy, params.attack, params.grid.attacks
            )
            found[f"{model}.{name}"] = verdict_of(evidence)
    return found


def _write_tables(job: Job, results: Tables) -> None:
    wide = [
        dict(row) | tables.valid_scores(results.utility[row["model"], row["method"]])
        for row in results.rows
    ]
    files = {
        "table": wide,
        "attacker": results.attacker,
        "forms": results.forms,
        "comparison": results.comparison,
        "robustness": results.robustness,
        "robustness_summary": results.summary,
        "privacy": results.privacy,
        "requests": results.requests,
        "cost": [flat_cost(row) for row in results.cost],
        "searches": results.trials,
    }
    for name, rows in files.items():
        tables.flatten(rows).write_csv(job.path(f"{name}.csv"))
    if results.meta:
        write_trust(results.meta, job.path(TRUST))
    if results.verdicts:
        write_json(job.path(AUDIT), {name: asdict(v) for name, v in results.verdicts.items()})
    results.points.write_csv(job.path("trajectories.csv"))
    text = tables.markdown_table(results.rows, results.utility, results.notes)
    below = [results.worst] if worst_of(results.items) else []
    below += rankings(results.rows, results.utility)
    keys = [s.key for s in results.shown]
    robust = tables.markdown_robustness(results.robustness, results.shown)
    privacy = tables.markdown_transposed(results.privacy, results.privacy_titles, tables.interval)
    pages = {
        "table": text + "".join(f"\n{line}\n" for line in below),
        "attacker": markdown_attacker(results.attacker, results.attacker_columns),
        "robustness": robust + marks.lines(results.failed, keys),
        "privacy": privacy + marks.lines(results.failed, results.privacy_titles),
    }
    for name, text in pages.items():
        job.path(f"{name}.md").write_text(text, encoding="utf-8")


def _write_figures(job: Job, results: Tables, experiment: str) -> None:
    title = f"{experiment}: "
    figures.forget_retain(job.path(FIGURES[0]), results.rows, title + "forgetting and its cost")
    figures.leakage_by_form(job.path(FIGURES[1]), results.forms, title + "what still leaks")
    figures.robustness(
        job.path(FIGURES[2]), results.robustness, results.shown, title + "when one tries harder"
    )
    figures.trajectories(job.path(FIGURES[3]), results.points, title + "on the way")


def _metrics(results: Tables) -> dict[str, float]:
    """Every valid estimate of the tables as a number; where one is not valid there is none."""
    metrics, m = {}, worst_of(results.items)
    for row in results.rows:
        cell = f"report/{row['model']}.{row['method']}"
        for key in results.columns:
            name = f"worst_of_{m}" if key == "worst_form" and m else key
            metrics[f"{cell}.{name}.{results.measure}/report"] = row[key]
        judged = {oracle_distance.id: row.get(tables.DISTANCE), selection.id: row[SELECTION]}
        metrics |= {f"{cell}.{k}/report": v for k, v in judged.items() if v is not None}
        scores = results.utility[row["model"], row["method"]]
        for key in (*tables.task_names(scores), "fluency", "perplexity", "collapsed"):
            if not tables.is_invalid(scores, key):
                metrics[f"{cell}.{key}/report"] = scores[key]
    for row in results.robustness:
        cell = f"report/{row['model']}.{row['method']}"
        metrics |= {f"{cell}.robustness.{s.key}/report": row[s.key] for s in results.shown}
    for row in results.privacy:
        cell = f"report/{row['model']}.{row['method']}"
        metrics |= {f"{cell}.privacy.{name}/report": row[name] for name in TITLES if name in row}
    return {
        name: value.mean if isinstance(value, Estimate) else value
        for name, value in metrics.items()
        if not isinstance(value, Estimate) or value.valid
    }


def _write_page(job: Job, params: Params, inputs: ReportInputs, results: Tables) -> None:
    import jinja2

    far = {tables.DISTANCE: tables.DISTANCE_TITLE} if tables.DISTANCE in results.rows[0] else {}
    template = (resources.files("atu.phases") / "report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=_shown,
    )  # fmt: skip
    page = environment.from_string(template).render(
        experiment=params.experiment,
        section=params.report,
        search_target=params.search.target,
        searched=any(row["search"] for row in results.cost),
        oracle=oracle_method(params) in results.methods,
        original=ORIGINAL in results.methods,
        held_out=any(name in results.privacy[0] for name in AUCS),
        attacks=params.grid.attacks,
        targets=params.grid.targets,
        seeds=sorted({a.cell["seed"] for a in inputs.rephrase}),
        columns=results.columns,
        compared={key: results.columns[key] for key in compared(results.columns)} | far,
        far=far,
        tasks=tables.task_names(next(iter(results.utility.values()))),
        task_titles=tables.TASK_TITLES,
        task_score=tables.task_score,
        shown_perplexity=tables.shown_perplexity,
        summary_titles=SUMMARY,
        results=results,
        rankings=rankings(results.rows, results.utility),
        retain=REQUEST_COLUMNS,
        enough=ENOUGH,
        blind=int(results.items[BLIND].sum()),
        asked=len(results.items),
        examples=tables.example_answers(results.items, results.methods, EXAMPLES),
        alignment=[row for artifact in inputs.align for row in predictor_scores(artifact)],
        knowledge=[(a.cell, m) for a in inputs.pretrain if KNOWN in (m := a.metrics())],
        known=KNOWN,
        images={name: _data_uri(job.folder / name) for name in FIGURES},
        special=figures.SPECIAL,
    )
    job.path("report.html").write_text(page, encoding="utf-8")


def _shown(value: Any) -> Any:
    """What the page shows of a value: texts are a model's or a benchmark's, and may hold anything.
    A macro's output (`Markup`, also a string) has been through here.
    """
    return visible(value) if type(value) is str else value


def predictor_scores(align: Artifact) -> list[tuple[dict[str, Any], str, dict[str, float]]]:
    """Cell, hook layer and held-out scores of every predictor that was aligned; of a layer that was
    not chosen it is said.
    """
    kept = {Path(name).parent.name for name in align.manifest["artifacts"]}
    layers: dict[str, dict[str, float]] = {}
    for key, value in align.metrics().items():
        _, name, split = key.split("/")
        if split == "held_out":
            layer, score = name.removeprefix("layer_").split(".")
            layers.setdefault(layer, {})[score] = value
    return [
        (align.cell, layer if layer_folder(int(layer)) in kept else f"{layer}, not chosen", scores)
        for layer, scores in layers.items()
    ]


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def require_same_cells(inputs: ReportInputs, attacks: Sequence[str]) -> None:
    """Refuse a comparison in which a cell is missing from one of the phases or attacks, or whose
    methods do not share all models, targets and seeds.

    Raises:
        ArtifactError: names the phase, attack or method.
    """

    def cells(artifacts: Sequence[Artifact]) -> set[Any]:
        keys = ("model", "target", "method", "seed")
        return {tuple(artifact.cell[key] for key in keys) for artifact in artifacts}

    covered = {name: cells(getattr(inputs, name)) for name in ("rephrase", "utility", "privacy")}
    for name in attacks:
        covered[f"attack {name}"] = cells([a for a in inputs.attack if a.cell["attack"] == name])
    for name, answered in covered.items():
        if answered != cells(inputs.unlearn):
            raise ArtifactError(f"report: {name} and unlearn cover different cells")
    rows: dict[str, set[Any]] = {}
    for model, target, method, seed in cells(inputs.unlearn):
        rows.setdefault(method, set()).add((model, target, seed))
    first = next(iter(rows))
    for method, values in rows.items():
        if values != rows[first]:
            raise ArtifactError(
                f"report: {method} and {first} differ in models, targets or seeds: not comparable"
            )


def require_same_evaluation(inputs: ReportInputs) -> None:
    """Refuse a comparison of cells that were not asked the same in the same way.

    Raises:
        ArtifactError: two cells differ in evaluation parameters or metrics' versions, or two of one
            target in probes; names both folders.
    """
    for phase in ("rephrase", "utility", "privacy", "attack"):
        seen: dict[tuple[str, ...], tuple[Any, Artifact]] = {}
        for artifact in getattr(inputs, phase):
            kind = artifact.cell.get("attack", phase)
            ids = sorted({name for key in artifact.metrics() for name in METRIC_ID.findall(key)})
            manifest = artifact.manifest
            versions: dict[tuple[str, ...], Any] = {
                (kind,): (manifest["params"], ids),
                (kind, artifact.cell["target"]): manifest["inputs"]["prepare"],
            }
            for key, version in versions.items():
                known, other = seen.setdefault(key, (version, artifact))
                if known != version:
                    raise ArtifactError(
                        f"report: {artifact.folder} and {other.folder} were evaluated differently "
                        "(probes, parameters or metric versions); run `snakemake` to bring both "
                        "up to date"
                    )
