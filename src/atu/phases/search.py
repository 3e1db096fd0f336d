"""search: the same number of trials for every method, each scored on the `select` split.

A trial is what the phase `unlearn` does with other settings: the same engine, the same stopping
rule and the same choice of a point. Optuna's sampler (TPE, Akiba et al. 2019, arXiv 1907.10902)
proposes settings; the first trial may have those of the parameter file. Without a number of trials
every combination of the choices is tried.

A run's score is the `selection` of its kept point, or with `search.relearn` its
`lasting_selection`: what a model only hides comes back by a fine-tune.

What is best for one target need not be best for others. So the trials with the best scores on the
first target, the finalists, are run on every further one, and the mean decides: successive halving
(Jamieson & Talwalkar 2016, arXiv 1502.07943) in two rounds, with the same number of runs for every
method of which enough trials end.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from atu.attacks.base import AttackContext, AttackTexts, mean_score
from atu.attacks.relearn import AFTER, ROLES, planned
from atu.attacks.relearn import run as relearn
from atu.config.dependencies import dependencies
from atu.config.sections import Choices, Search, Span, Unlearn
from atu.config.spaces import CHOSEN, ends, search_row, space_of, value_at, with_values
from atu.errors import ConfigError, EvaluationError, MethodError, StoppedError, TrainingError
from atu.inference.batching import BatchSize
from atu.metrics.recovery import lasting_selection
from atu.models.compute import Compute, drop_dead_models
from atu.models.guards.base import unguarded
from atu.models.llm import open_lm
from atu.models.shards import loading_place
from atu.models.trainable import trains_weights
from atu.progress import Progress
from atu.results.artifacts import Artifact
from atu.results.checkpoints import State, Store
from atu.results.costs import COSTS
from atu.results.files import write_json, write_jsonl
from atu.results.jobs import write_folder
from atu.results.tables import target_tables
from atu.seeding import child_seed
from atu.unlearning.engine import UnlearnInputs, require_inputs, run_method
from atu.unlearning.trajectory import ANSWER_TOKENS, BATCH

if TYPE_CHECKING:
    import optuna
    from transformers import PreTrainedModel

PHASE, SPLIT = "search", "select"


def run(
    out: Path,
    section: Search,
    compute: Compute,
    unlearn: Unlearn,
    method: str,
    inputs: Sequence[UnlearnInputs],
) -> None:
    """Write `trials.jsonl` (values, score and cost of each) and `chosen.json` (the best's whole
    settings, and which trial it was). Trials are counted from 1.

    Args:
        inputs: of every target of the section, in its order.

    Raises:
        ConfigError: a folder is another target's.
        EvaluationError: no trial could be scored.
    """
    settings = unlearn.methods[method]
    for target, given in zip(section.targets, inputs, strict=True):
        require_inputs(method, settings, given)
        _require_about(target, given)
        if section.relearn:
            _require_relearned(section, given)
    params = dependencies(PHASE, section, compute, method, unlearn=unlearn)
    cell = {"model": inputs[0].pretrain.cell["model"], "method": method}
    with write_folder(out, PHASE, cell=cell, params=params, inputs=_present(inputs)) as job:
        search = _Search(section, compute, unlearn, method, inputs, job.checkpoints)
        trials = search.finals(search.trials())
        best = best_trial(trials)
        write_jsonl(job.path("trials.jsonl"), trials)
        chosen = with_values(method, asdict(settings), best["values"])
        write_json(
            job.path(CHOSEN),
            {"trial": best["trial"], "values": best["values"], "settings": asdict(chosen)},
        )
        runs = [run for trial in trials for run in (trial, *trial["finals"])]
        job.metrics = {
            "search/score/select": trial_score(best),
            "search/score_first/select": trials[0]["score"],
            "search/trials/all": len(trials),
            "search/finals/all": len(runs) - len(trials),
            "search/failed/all": sum(run["error"] is not None for run in runs),
        } | {f"search/{name}/all": sum(run[name] for run in runs) for name in COSTS}


def _require_about(target: str, given: UnlearnInputs) -> None:
    """The target's folders, for a score would stand under another's name."""
    for name in ("prepare", "embed", "align"):
        artifact = getattr(given, name)
        if artifact is not None and artifact.cell["target"] != target:
            raise ConfigError(
                f"--{name}", artifact.cell["target"], f"is not about {target!r}; give one folder "
                "for each of search.targets, in their order",
            )  # fmt: skip


def _require_relearned(section: Search, given: UnlearnInputs) -> None:
    """Questions to relearn, before any trial."""
    try:
        planned(AttackTexts(section.relearn, **target_tables(given.prepare, SPLIT)))
    except EvaluationError as error:
        raise ConfigError(
            "search.relearn", section.relearn.folds, f"{error}; or set null"
        ) from None


def _present(inputs: Sequence[UnlearnInputs]) -> dict[str, Artifact]:
    """All inputs by name; those of the targets after the first with their numbers, from 2."""
    return {
        name if number == 1 else f"{name}/{number}": artifact
        for number, given in enumerate(inputs, 1)
        for name, artifact in given.present().items()
        if number == 1 or name != "pretrain"
    }


def run_shared(out: Path, section: Search, finished: Sequence[Artifact]) -> None:
    """Write `search.json`: per model and method what was chosen and what the search cost."""
    rows = [search_row(search) for search in finished]
    inputs = {f"{a.cell['model']}/{a.cell['method']}": a for a in finished}
    params = dependencies(PHASE, section)
    with write_folder(out, PHASE, cell={"model": None}, params=params, inputs=inputs) as job:
        write_json(job.path("search.json"), rows)
        job.metrics = {"search/methods/all": len(rows)}


@dataclass(frozen=True)
class _Search:
    """One method's search: its trials in order, then its finals, each checkpointed when it ends."""

    section: Search
    compute: Compute
    unlearn: Unlearn
    method: str
    inputs: Sequence[UnlearnInputs]
    store: Store

    def trials(self) -> list[dict[str, Any]]:
        """All trials, on the first target. One that diverges scores 0, which no other can fall
        below.

        A resumed search has the same trials: the sampler proposes them again, and is told what was
        found.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        section, entry = self.section, asdict(self.unlearn.methods[self.method])
        space = space_of(section, self.method, entry)
        seed = child_seed(section.seed, PHASE, self.method) % 2**31
        study = optuna.create_study(
            direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=5)
        )
        if section.trials is None:
            given = [dict(zip(space, chosen, strict=True)) for chosen in product(*numbers(space))]
        elif section.first == "settings":
            given = [{key: as_parameter(value_at(entry, key, PHASE), space[key]) for key in space}]
        else:
            given = []
        for parameters in given:
            study.enqueue_trial(parameters)
        total = section.trials or len(given)
        progress = Progress(f"search {self.method}", total)
        trials: list[dict[str, Any]] = []
        before = self.store.load()
        done = before.values["trials"] if before else []
        if done:
            print(f"resumed from trial {len(done)} of {total}", file=sys.stderr)
        for number in range(total):
            proposed = study.ask()
            values = {key: suggest(proposed, key, allowed) for key, allowed in space.items()}
            if number < len(done):
                trials.append(done[number])
            else:
                kept = f"in trial {number + 1}; the {number} before it"
                outcome = self._run(values, self.inputs[0], kept)
                trials.append({"trial": number + 1, "values": values} | outcome | {"finals": []})
                self.store.save(State({"trials": trials}, {}))
            trial = trials[-1]
            study.tell(proposed, trial["score"])
            progress.update({"score": trial["score"]})
        progress.close()
        return trials

    def finals(self, trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The trials, with the runs of the finalists on every further target. Of equals the earlier
        is a finalist. Where all trials failed they are forgotten, so that the next run tries again.

        Raises:
            EvaluationError: every trial failed.
        """
        good = [trial for trial in trials if trial["error"] is None]
        if not good:
            self.store.clear()
            raise EvaluationError(
                f"search {self.method}: all trials failed; the last: {trials[-1]['error']}"
            )
        further = list(zip(self.section.targets, self.inputs, strict=True))[1:]
        if not further:
            return trials
        finalists = sorted(good, key=lambda trial: -trial["score"])[: self.section.finalists]
        total, done = len(finalists) * len(further), sum(len(t["finals"]) for t in finalists)
        if done:
            print(f"resumed from final {done} of {total}", file=sys.stderr)
        progress = Progress(f"search {self.method}, finals", total, done)
        for trial in finalists:
            for target, inputs in further[len(trial["finals"]) :]:
                kept = f"on {target} with trial {trial['trial']}; the runs before it"
                outcome = self._run(trial["values"], inputs, kept)
                trial["finals"].append({"target": target} | outcome)
                self.store.save(State({"trials": trials}, {}))
                progress.update({"score": outcome["score"]})
        progress.close()
        return trials

    def _run(self, values: Mapping[str, Any], inputs: UnlearnInputs, kept: str) -> dict[str, Any]:
        """Score and cost of one run; the whole kept point beside them.

        Raises:
            StoppedError: says what is `kept`.
        """
        settings = with_values(self.method, asdict(self.unlearn.methods[self.method]), values)
        drop_dead_models()  # those of the run before
        model, tokenizer = open_lm(
            inputs.pretrain, self.compute, training=trains_weights(settings), place=loading_place()
        )
        seed = self.section.seed
        try:
            outcome = run_method(model, tokenizer, settings, self.unlearn, inputs, seed)
            scores = {"selection": outcome.kept["selection"]}
            try:
                scores |= self._relearned(model, tokenizer, inputs)
            except (TrainingError, EvaluationError) as error:
                raise MethodError(str(error), outcome.cost) from error
        except MethodError as error:
            return {"score": 0.0, "error": str(error), "point": {}} | error.cost
        except StoppedError:
            raise StoppedError(
                f"search {self.method}: stopped on request {kept} are kept, run again to go on "
                "from there"
            ) from None
        score = lasting_selection(**scores) if len(scores) > 1 else scores["selection"]
        return {"score": score, "error": None, "point": outcome.kept} | scores | outcome.cost

    def _relearned(
        self, model: PreTrainedModel, tokenizer: Any, inputs: UnlearnInputs
    ) -> dict[str, float]:
        """What a fine-tune brings back of the target, and what it finds of a person nobody knew;
        nothing without `search.relearn`.
        """
        if not (settings := self.section.relearn):
            return {}
        with unguarded(model):  # a guard is frozen, as where the attack opens the model's folder
            model.requires_grad_(True)  # with some methods only what they train is
        context = AttackContext(
            settings,
            **target_tables(inputs.prepare, SPLIT),
            model=model,
            tokenizer=tokenizer,
            max_new_tokens=ANSWER_TOKENS,
            batch_size=BatchSize(BATCH),
            seed=child_seed(self.section.seed, PHASE, settings.attack) % 2**31,
        )
        items = relearn(context).items
        found = [mean_score(items, AFTER, role) for role in ROLES]
        return dict(zip(("relearned", "never_known"), found, strict=True))


def numbers(space: Mapping[str, Span | Choices]) -> list[range]:
    """The number of every choice, per key."""
    return [range(len(ends(values))) for values in space.values()]


def as_parameter(value: Any, values: Span | Choices) -> Any:
    """A value as the sampler knows it: a choice by its number."""
    return values.choices.index(value) if isinstance(values, Choices) else value


def suggest(trial: optuna.Trial, key: str, values: Span | Choices) -> Any:
    """The sampler's proposal for one key; numbers to three digits, as one would write them down."""
    if isinstance(values, Choices):
        return values.choices[trial.suggest_categorical(key, list(range(len(values.choices))))]
    drawn = trial.suggest_float(key, values.low, values.high, log=values.log)
    return min(max(float(f"{drawn:.3g}"), values.low), values.high)


def trial_score(trial: Mapping[str, Any]) -> float:
    """A trial's score: over all targets of a finalist, on the first one of another."""
    return fmean(run["score"] for run in (trial, *trial["finals"]))


def best_trial(trials: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The finalist with the highest mean score, the earlier of equals; with one target the trial
    with the highest score.
    """
    seen = max(len(trial["finals"]) for trial in trials)
    finalists = [t for t in trials if t["error"] is None and len(t["finals"]) == seen]
    return max(finalists, key=trial_score)
