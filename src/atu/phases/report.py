"""report: tables with intervals, figures and one HTML page, from every cell's results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from atu.config.cells import cell_of, manifest_path
from atu.config.dependencies import dependencies
from atu.config.params import Params, given_methods, method_names, method_notes, oracle_method
from atu.config.roles import REFERENCES
from atu.metrics.bootstrap import Estimate
from atu.metrics.oracle_distance import oracle_distance
from atu.metrics.selection import selection
from atu.metrics.trust import FILE as TRUST
from atu.metrics.trust import write as write_trust
from atu.reporting import figures, marks, tables
from atu.reporting.answers import amid_counts, answer_groups, shown_methods
from atu.reporting.attacker import attacker_columns, attacker_table, markdown_attacker
from atu.reporting.cells import (
    UTILITY,
    cell_rows,
    headline_numbers,
    headline_rows,
    markdown_headline,
)
from atu.reporting.comparison import compared, comparison_table, markdown_comparison
from atu.reporting.cost import cost_table, flat_cost
from atu.reporting.distance import Distance, distances, gap_rows, markdown_gaps
from atu.reporting.evidence import Beside, evidence_of
from atu.reporting.gathered import Tables
from atu.reporting.headline import dominance
from atu.reporting.inputs import ReportInputs, require_same_cells, require_same_evaluation
from atu.reporting.items import load_attacks, load_documents, load_items, worst_note
from atu.reporting.meta import has_pools, meta_table
from atu.reporting.names import FIGURES, PAGE
from atu.reporting.page import page_text
from atu.reporting.privacy import TITLES, privacy_table
from atu.reporting.ranking import SELECTION, rankings, selections
from atu.reporting.requests import requests_table
from atu.reporting.robustness import (
    matters,
    robustness_table,
    shown_columns,
    summary_table,
    with_notes,
)
from atu.reporting.searches import searches_table, trials_table
from atu.reporting.verdict import Evidence, removal_signs, verdict_of
from atu.reporting.words import in_words
from atu.results.files import read_json, write_json
from atu.results.items import worst_of
from atu.results.jobs import Job, write_folder

PHASE = "report"
AUDIT = "audit.json"
"""The verdicts on checkpoints that somebody else made, with every number behind them."""
VERDICTS = "verdicts.json"
"""Every method's verdict in words, by the name of its model and its own."""
HEADLINE, CELLS = "headline.json", "cells.csv"
"""The few numbers that a reader asks for first: of every method, and of every cell."""


def run(out: Path, params: Params, inputs: ReportInputs) -> None:
    """Write CSV tables, `table.md`, figures and `report.html`."""
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
        _write_tables(job, results, section.compare)
        _write_figures(job, results)
        page = page_text(job.folder, params, inputs, results)
        job.path(PAGE).write_text(page, encoding="utf-8")
        job.metrics = _metrics(results)


def make_tables(params: Params, inputs: ReportInputs) -> Tables:
    """All tables, from the cells' items. Requests for several names, and a sequence's first step
    where it is none of the grid's targets, have a table of their own: an average over unlike
    requests would say little about either.
    """
    section, attacks, names = params.report, params.grid.attacks, method_names(params)
    methods = list(dict.fromkeys(a.cell["method"] for a in inputs.rephrase))
    everything = load_items(inputs.rephrase)
    several = [t for t in params.grid.requests() if t.label not in params.grid.targets]
    single = inputs.of_targets(params.grid.targets)
    items = load_items(single.rephrase) if several else everything
    documents = load_documents(single.utility)
    attacked, utility = load_attacks(single.attack), tables.utility_means(single.utility)
    searched = read_json(inputs.search[0].file("search.json"))
    robust = robustness_table(items, attacked, section, params.attack, attacks, methods)
    privacy = privacy_table(single.privacy, section, methods)
    shown = [s for s in shown_columns(params.attack, attacks) if any(r[s.key].n for r in robust)]
    shown = with_notes(shown, attacked, params.attack, attacks, robust, names)
    columns, measure = tables.asked_columns(items), items["measure"][0]
    titles = columns | {s.key: s.title for s in shown}
    titles |= {name: title for name, title in TITLES.items() if name in privacy[0]}
    failed = marks.failed_titles(titles, measure, params.attack, attacks, attacked)
    titles = marks.marked(titles, failed)
    seen = attacker_columns(robust, privacy, params.attack, attacks)
    oracle = oracle_method(params)
    far = distances(items, documents, utility, section, methods, oracle)
    rows = tables.main_table(items, section, methods)
    judged = _judged(rows, selections(rows, items), far)
    evidence = _evidence(params, methods, items, attacked, documents, utility, privacy)
    given = given_methods(params)
    shown = [replace(s, title=titles[s.key]) for s in shown]
    evaluated = [*single.rephrase, *single.privacy, *single.attack]
    return Tables(
        methods=methods,
        names=names,
        notes=method_notes(params, methods),
        measure=measure,
        worst=worst_note(items),
        columns={key: titles[key] for key in columns},
        rows=judged,
        words=_words(evidence),
        sentences=dominance(rows, section.compare, names, utility),
        headline=headline_rows(judged, items, documents, utility, section),
        cells=_cells(params, cell_rows(items, documents, single.utility, far)),
        answers=answer_groups(items, shown_methods(methods, section.compare)),
        amid=amid_counts(items, [name for name in methods if name not in REFERENCES]),
        attacker_columns=seen,
        attacker=attacker_table(robust, privacy, seen),
        forms=tables.form_table(items, section, methods),
        gaps=gap_rows(far),
        comparison=comparison_table(items, section, methods, oracle, far),
        compared={key: titles[key] for key in compared(columns)}
        | ({tables.DISTANCE: tables.DISTANCE_TITLE} if far else {}),
        robustness=robust,
        shown=shown,
        mattering=[s for s in shown if s.key in matters(shown, evidence.values())],
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
        verdicts={n: verdict_of(found) for n, found in evidence.items() if found.name in given},
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


def _evidence(
    params: Params,
    methods: Sequence[str],
    items: Any,
    attacked: Any,
    documents: Any,
    utility: Mapping[tuple[str, str], Mapping[str, float]],
    privacy: Sequence[Mapping[str, Any]],
) -> dict[str, Evidence]:
    """What the verdict on every method is derived from, by the name of its model and its own."""
    found = {}
    for model in items["model"].unique().sort():
        beside = Beside(model, methods, items, attacked, documents, params.report)
        for name in methods:
            if name not in REFERENCES:
                found[f"{model}.{name}"] = evidence_of(
                    beside, name, utility, privacy, params.attack, params.grid.attacks
                )
    return found


def _words(evidence: Mapping[str, Evidence]) -> list[dict[str, Any]]:
    """A line per verdict."""
    return [
        {
            "model": key.removesuffix(f".{found.name}"), "method": found.name,
            "words": in_words(found), "removed": removal_signs(found), "collapsed": found.collapsed,
        }
        for key, found in evidence.items()
    ]  # fmt: skip


def _cells(params: Params, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows with `name`, what people call the method, and `folder`, what Snakemake makes."""
    names = method_names(params)
    results = Path("results") / params.experiment
    rows_with = []
    for row in rows:
        cell = cell_of(params, row)
        folder = manifest_path(results, "rephrase", cell).as_posix()
        rows_with.append({**row, "name": names.get(cell.method, cell.method), "folder": folder})
    return rows_with


def _write_tables(job: Job, results: Tables, ours: str) -> None:
    names = results.names
    wide = [
        {**row, "name": names.get(row["method"], row["method"]), UTILITY: head[UTILITY]}
        | tables.valid_scores(results.utility[row["model"], row["method"]])
        for row, head in zip(results.rows, results.headline, strict=True)
    ]
    files = {
        "table": wide,
        "cells": results.cells,
        "attacker": results.attacker,
        "forms": results.forms,
        "comparison": results.comparison,
        "distance": results.gaps,
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
    write_json(job.path(HEADLINE), headline_numbers(results.headline))
    words = {f"{row['model']}.{row['method']}": {"words": row["words"]} for row in results.words}
    write_json(job.path(VERDICTS), words)
    if results.verdicts:
        write_json(job.path(AUDIT), {name: asdict(v) for name, v in results.verdicts.items()})
    results.points.write_csv(job.path("trajectories.csv"))
    text = tables.markdown_table(results.rows, results.utility, results.notes, names)
    below = [results.worst] if worst_of(results.items) else []
    below += rankings(results.rows, results.utility, names)
    keys = [s.key for s in results.shown]
    robust = tables.markdown_robustness(results.robustness, results.shown, names)
    privacy = tables.markdown_transposed(
        results.privacy, results.privacy_titles, tables.interval, names
    )
    pages = {
        "headline": markdown_headline(results.headline, names),
        "table": text + "".join(f"\n{line}\n" for line in below),
        "attacker": markdown_attacker(results.attacker, results.attacker_columns, names),
        "distance": markdown_gaps(results.gaps, names),
        "comparison": markdown_comparison(results.comparison, results.compared, names, ours),
        "robustness": robust + marks.lines(results.failed, keys),
        "privacy": privacy + marks.lines(results.failed, results.privacy_titles),
    }
    for name, text in pages.items():
        job.path(f"{name}.md").write_text(text, encoding="utf-8")


def _write_figures(job: Job, results: Tables) -> None:
    tried = [column for column in results.mattering if not column.control]
    scatter, forms, robust, way = (job.path(name) for name in FIGURES)
    figures.forget_retain(scatter, results.rows, results.names)
    figures.leakage_by_form(forms, results.forms, results.names)
    figures.robustness(robust, results.robustness, tried, results.names)
    figures.trajectories(way, results.points, results.names)


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
