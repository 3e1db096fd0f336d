"""The report's page: one HTML file that needs nothing else, not even a network."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

from atu.alignment.loop import layer_folder
from atu.config.cells import cell_manifests, cell_of
from atu.config.params import Params, methods_in_words, oracle_method
from atu.config.roles import ORACLE, ORIGINAL, REFERENCES, SECOND_ORACLE
from atu.errors import visible
from atu.metrics.selection import PARTNER
from atu.metrics.trust import ENOUGH
from atu.probes.prompts import FORMS
from atu.reporting import tables
from atu.reporting.answers import shown_methods
from atu.reporting.attacker import lens_names
from atu.reporting.cells import HEADLINE
from atu.reporting.comparison import by_target
from atu.reporting.distance import gap_titles
from atu.reporting.gathered import Tables
from atu.reporting.inputs import ReportInputs
from atu.reporting.names import FIGURES, measure_name
from atu.reporting.privacy import AUCS
from atu.reporting.ranking import rankings
from atu.reporting.requests import COLUMNS as REQUEST_COLUMNS
from atu.reporting.robustness import SUMMARY
from atu.reporting.searches import search_words
from atu.results.artifacts import Artifact
from atu.results.items import BLIND

KNOWN = "pretrain/exact_match_known_question/held_out"
"""What a model that was trained here knows; a pinned one was not asked."""
SECTIONS = {
    "verdict": "Verdict",
    "answers": "Answers, side by side",
    "robustness": "What brings it back",
    "privacy": "What an outsider can tell",
    "comparison": "The whole comparison",
    "requests": "Several targets",
    "trajectories": "On the way",
    "cost": "Settings and their cost",
    "trust": "Which metric can be trusted here",
    "parts": "How well the parts work",
    "again": "How to make it again",
    "words": "What the words mean",
}
GLOSSARY = {
    "Original": "the model before unlearning",
    "Oracle": "a model trained in the same way, but never on the target: what perfect forgetting "
    "would give; what it answers rightly, it guesses",
    "Target, neighbours, other people, general facts": "who or what is to be forgotten; those who "
    "stand close to it and should be kept; everybody else; facts about no person",
    "Form, worst form": "a way of asking for the same fact (a cloze, a role play, two hops); of "
    "every fact the one in which it leaks most",
    "Split": "probes are divided: “select” chooses settings and checkpoints, “report” is what this "
    "page shows",
    "Cell": "one model, target, method and seed",
    "Over-suppressed": "answering less about the target than a model that never knew, or finding "
    "its texts stranger: a sign that something was removed",
    "Distance to the oracle": "how far the scores are from the oracle’s: about the target too high "
    "or too low, elsewhere too low",
    "Membership AUC": "how well the loss tells texts about the target from texts nobody saw; .5 is "
    "not at all, and the oracle’s is the number to have",
    "PrivLeak": "MUSE’s number: how far the same by another score, Min-K %, is from the oracle’s, "
    "in per cent; far above 0 is over-suppressed",
    "Logit lens": "whether the answer can be read from the hidden states of some layer",
    "Unlearning depth": "how much of the answer is gone from the layers: what the original loses "
    "when it reads their hidden states in place of its own; 1 as in the oracle",
    "Retain question": "a question about somebody who should be kept",
    "Selection": "the score by which checkpoints are chosen on “select”: forgetting down to "
    "chance, and what is kept",
    "COLLAPSED": "a ruined model, which says little of anything",
}


def page_text(folder: Path, params: Params, inputs: ReportInputs, results: Tables) -> str:
    """The page; the figures are read from `folder`."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=_shown,
    )  # fmt: skip
    far = {tables.DISTANCE: tables.DISTANCE_TITLE} if tables.DISTANCE in results.rows[0] else {}
    oracle = oracle_method(params) in results.methods
    absent = {"requests": not results.requests, "trust": not results.meta}
    return environment.from_string(_asset("page.html.jinja")).render(
        css=Markup(_asset("page.css")),
        js=Markup(_asset("page.js")),
        contents={key: title for key, title in SECTIONS.items() if not absent.get(key)},
        experiment=params.experiment,
        section=params.report,
        measure=measure_name(results.measure),
        method_name=lambda key: results.names.get(key, key),
        search=params.search,
        search_words=search_words(params.search),
        searched=any(row["search"] for row in results.cost),
        oracle=oracle,
        original=ORIGINAL in results.methods,
        held_out=any(name in results.privacy[0] for name in AUCS),
        attacks=params.grid.attacks,
        lenses=lens_names(params.attack, params.grid.attacks),
        partner=PARTNER,
        targets=params.grid.targets,
        models=list(dict.fromkeys(row["model"] for row in results.rows)),
        seeds=sorted({a.cell["seed"] for a in inputs.rephrase}),
        headline={key: title for key, title in HEADLINE.items() if key in results.headline[0]},
        compared=results.compared,
        far=far,
        by_target=by_target,
        gaps=gap_titles(results.gaps),
        forms=FORMS,
        tasks=tables.task_names(next(iter(results.utility.values()))),
        task_titles=tables.TASK_TITLES,
        task_score=tables.task_score,
        shown_perplexity=tables.shown_perplexity,
        shown_methods=shown_methods(results.methods, params.report.compare),
        summary_titles=SUMMARY,
        results=results,
        rankings=rankings(results.rows, results.utility, results.names),
        retain=REQUEST_COLUMNS,
        enough=ENOUGH,
        blind=int(results.items[BLIND].sum()),
        asked=len(results.items),
        alignment=[row for artifact in inputs.align for row in predictor_scores(artifact)],
        knowledge=[(a.cell, m) for a in inputs.pretrain if KNOWN in (m := a.metrics())],
        known=KNOWN,
        figures={name: Markup(inline(folder / name, heard)) for name, heard in FIGURES.items()},
        special=REFERENCES,
        second=SECOND_ORACLE in results.methods,
        methods=methods_in_words(params, (m for m in results.methods if m not in REFERENCES)),
        glossary={
            word: meaning
            for word, meaning in GLOSSARY.items()
            if oracle or ORACLE not in f"{word}{meaning}".lower()
        },
        example=example_manifests(params, results),
        explained=explained(results),
        # What n failures leave possible: the exact one-sided limit.
        unseen=lambda n: 1 - (1 - params.report.confidence) ** (1 / n),
    )


def example_manifests(params: Params, results: Tables) -> list[str]:
    """What makes every number of the first method's first cell, or of the first cell if there is no
    method.
    """
    row = next((c for c in results.cells if c["method"] not in REFERENCES), results.cells[0])
    paths = cell_manifests(params, Path("results") / params.experiment, cell_of(params, row))
    return [path.as_posix() for name, path in paths.items() if name not in ("align", "unlearn")]


def explained(results: Tables) -> str:
    """The name of a number of the main table, as `atu explain` knows it."""
    row = next((r for r in results.rows if r["method"] not in REFERENCES), results.rows[0])
    column = next(iter(results.columns))
    return f"report/{row['model']}.{row['method']}.{column}.{results.measure}/report"


def _asset(name: str) -> str:
    return (resources.files("atu.reporting") / name).read_text(encoding="utf-8")


def inline(path: Path, heard: str) -> str:
    """An SVG file as an element of a page, with names of its own and a text for those who do not
    see it.
    """
    text = path.read_text(encoding="utf-8")
    body = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg ") :], flags=re.DOTALL)
    own = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{path.stem}-", body)
    return own.replace("<svg ", f'<svg role="img" aria-label="{heard}" ', 1)


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
