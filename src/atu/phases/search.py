"""search: the same number of trials for every method, each scored on the `select` split.

A trial is what the phase `unlearn` does with other settings: the same engine, the same stopping
rule and the same choice of a point. Optuna's sampler (TPE, Akiba et al. 2019, arXiv 1907.10902)
proposes settings; the first trial may have those of the parameter file.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atu.config.dependencies import dependencies
from atu.config.sections import Choices, Search, Span, Unlearn
from atu.config.spaces import CHOSEN, search_row, space_of, value_at, with_values
from atu.errors import EvaluationError, MethodError, StoppedError
from atu.models.compute import Compute, drop_dead_models
from atu.models.llm import open_lm
from atu.models.shards import loading_place
from atu.models.trainable import trains_weights
from atu.progress import Progress
from atu.results.artifacts import Artifact
from atu.results.checkpoints import State, Store
from atu.results.costs import COSTS
from atu.results.files import write_json, write_jsonl
from atu.results.jobs import write_folder
from atu.seeding import child_seed
from atu.unlearning.engine import UnlearnInputs, require_inputs, run_method

if TYPE_CHECKING:
    import optuna

PHASE = "search"


def run(
    out: Path,
    section: Search,
    compute: Compute,
    unlearn: Unlearn,
    method: str,
    inputs: UnlearnInputs,
) -> None:
    """Write `trials.jsonl` (values, score and cost of each) and `chosen.json` (the best's whole
    settings).

    Raises:
        EvaluationError: no trial could be scored.
    """
    settings = unlearn.methods[method]
    require_inputs(method, settings, inputs)
    entry = asdict(settings)
    space = space_of(section, method, entry)
    params = dependencies(PHASE, section, compute, method, unlearn=unlearn)
    cell = {"model": inputs.pretrain.cell["model"], "method": method}
    with write_folder(out, PHASE, cell=cell, params=params, inputs=inputs.present()) as job:
        trials = run_trials(
            section, compute, unlearn, method, entry, space, inputs, job.checkpoints
        )
        best = best_trial(trials, method, job.checkpoints)
        write_jsonl(job.path("trials.jsonl"), trials)
        chosen = with_values(method, entry, best["values"])
        write_json(job.path(CHOSEN), {"values": best["values"], "settings": asdict(chosen)})
        job.metrics = {
            "search/selection/select": best["selection"],
            "search/selection_first/select": trials[0]["selection"],
            "search/trials/all": len(trials),
            "search/failed/all": sum(trial["error"] is not None for trial in trials),
        } | {f"search/{name}/all": sum(trial[name] for trial in trials) for name in COSTS}


def run_shared(out: Path, section: Search, finished: Sequence[Artifact]) -> None:
    """Write `search.json`: per model and method what was chosen and what the search cost."""
    rows = [search_row(search) for search in finished]
    inputs = {f"{a.cell['model']}/{a.cell['method']}": a for a in finished}
    params = dependencies(PHASE, section)
    with write_folder(out, PHASE, cell={"model": None}, params=params, inputs=inputs) as job:
        write_json(job.path("search.json"), rows)
        job.metrics = {"search/methods/all": len(rows)}


def run_trials(
    section: Search,
    compute: Compute,
    unlearn: Unlearn,
    method: str,
    entry: Mapping[str, Any],
    space: Mapping[str, Span | Choices],
    inputs: UnlearnInputs,
    store: Store,
) -> list[dict[str, Any]]:
    """All trials in order. One that diverges scores 0, which no other can fall below.

    Every finished trial is checkpointed: the sampler proposes the same again, and is told what was
    found.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed = child_seed(section.seed, PHASE, method) % 2**31
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=5)
    )
    if section.first == "settings":
        study.enqueue_trial(
            {key: as_parameter(value_at(entry, key, PHASE), space[key]) for key in space}
        )
    progress = Progress(f"search {method}", section.trials)
    trials: list[dict[str, Any]] = []
    before = store.load()
    done = before.values["trials"] if before else []
    if done:
        print(f"resumed from trial {len(done)} of {section.trials}", file=sys.stderr)
    for number in range(section.trials):
        proposed = study.ask()
        values = {key: suggest(proposed, key, allowed) for key, allowed in space.items()}
        if number < len(done):
            trials.append(done[number])
        else:
            try:
                outcome = _try(section, compute, unlearn, method, values, inputs)
            except StoppedError:
                raise StoppedError(
                    f"search {method}: stopped on request in trial {number + 1}; the {number} "
                    "before it are kept, run again to go on from there"
                ) from None
            trials.append({"trial": number, "values": values} | outcome)
            store.save(State({"trials": trials}, {}))
        trial = trials[-1]
        study.tell(proposed, trial["selection"])
        progress.update({"selection": trial["selection"]})
    progress.close()
    return trials


def as_parameter(value: Any, values: Span | Choices) -> Any:
    """A value as the sampler knows it: a choice by its number."""
    return values.choices.index(value) if isinstance(values, Choices) else value


def suggest(trial: optuna.Trial, key: str, values: Span | Choices) -> Any:
    """The sampler's proposal for one key; numbers to three digits, as one would write them down."""
    if isinstance(values, Choices):
        return values.choices[trial.suggest_categorical(key, list(range(len(values.choices))))]
    drawn = trial.suggest_float(key, values.low, values.high, log=values.log)
    return min(max(float(f"{drawn:.3g}"), values.low), values.high)


def _try(
    section: Search,
    compute: Compute,
    unlearn: Unlearn,
    method: str,
    values: Mapping[str, Any],
    inputs: UnlearnInputs,
) -> dict[str, Any]:
    """Score and cost of one trial; the whole kept point beside them."""
    settings = with_values(method, asdict(unlearn.methods[method]), values)
    drop_dead_models()  # those of the trial before
    model, tokenizer = open_lm(
        inputs.pretrain, compute, training=trains_weights(settings), place=loading_place()
    )
    try:
        outcome = run_method(model, tokenizer, settings, unlearn, inputs, section.seed)
    except MethodError as error:
        return {"selection": 0.0, "error": str(error), "point": {}} | error.cost
    selection = outcome.kept["selection"]
    return {"selection": selection, "error": None, "point": outcome.kept} | outcome.cost


def best_trial(trials: Sequence[dict[str, Any]], method: str, store: Store) -> dict[str, Any]:
    """The trial with the highest score, the earlier of equals. Where all failed they are forgotten,
    so that the next run tries again.

    Raises:
        EvaluationError: every trial failed.
    """
    good = [trial for trial in trials if trial["error"] is None]
    if not good:
        store.clear()
        raise EvaluationError(
            f"search {method}: all trials failed; the last: {trials[-1]['error']}"
        )
    return max(good, key=lambda trial: trial["selection"])
