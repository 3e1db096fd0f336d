"""Result folders, written by hand, for whatever reads results (tables, figures, report, mirror)."""

import copy

import polars as pl
import pytest

from atu import attacks as known_attacks
from atu.config.params import Params
from atu.config.sections import Report
from atu.probes.prompts import ASIDE, ORT, WHOLE, format_prompt
from atu.results.artifacts import MANIFEST, Artifact
from atu.results.files import write_json, write_jsonl
from atu.results.jobs import write_folder

CELL = {"model": "m", "target": "Ada", "method": "none", "seed": 0}
PEOPLE = {"target": "Ada", "neighbour": "Bob", "other": "Cyd", "general": "Dania"}
ASKED = [
    ("target", "question", True), ("target", "cloze", False), ("target", "choice", False),
    ("target", "paired", False), ("partner", "paired", False), ("target", "alias", False),
    ("target", "two_hop", False),
]  # fmt: skip
"""Role, form and `seen` of what is asked besides every role's plain questions."""
DETAILS = {"name": "N", "hint": "H.", "example": "E?", "example_answer": "e", "second": "S?"}
"""What some forms' prompts need besides the question."""


@pytest.fixture
def store(tmp_path):
    """A function that writes a folder of a phase and opens it; `files` are writers by name."""

    def store(name, phase, cell=None, *, files=None, metrics=None, params=None, inputs=None):
        manifest = tmp_path / name / MANIFEST
        own = CELL | (cell or {})
        with write_folder(
            manifest, phase, cell=own, params=params or {}, inputs=inputs or {}
        ) as job:
            for file, write in (files or {}).items():
                write(job.path(file))
            job.metrics = metrics or {}
        return Artifact.open(manifest, phase)

    return store


@pytest.fixture
def make_item():
    """A function that gives one scored probe, of the target's `report` split unless said.

    `hit` is every score that the form has; ORT's probability is null in the forms that are not
    ORT's. Own values replace any column: `**{"exact_match@own-2": None}`.
    """
    from atu.metrics.answers import exact_match
    from atu.phases.rephrase import SCORES
    from atu.results.items import BLIND, OFFICIAL, PROBABILITY, SCORE

    def make(fact="Ada/pet", form="question", *, split="report", seen=False, hit=0.0, **own):
        scores = dict.fromkeys(SCORES, hit) | {PROBABILITY: hit if form in ORT else None}
        scores[SCORE] = own.get(exact_match.id, hit)
        query = f"{fact} as {form}?"
        options = own.get("options", [])
        return {
            "id": f"{fact}/{form}/{'seen' if seen else 'new'}/{split}",
            "role": "target",
            "subject": fact.split("/")[0],
            "fact": fact,
            "form": form,
            "type": form,
            "phrasing": 0,
            "seen": seen,
            "query": query,
            "options": options,
            "prompt": format_prompt(form, query, options, first=query, **DETAILS),
            "part": WHOLE,
            "stops": ["\n"],
            "answer": "owl",
            "measure": exact_match.id,
            "wrong": ["elk", "emu"],
            "paraphrased": None,
            "needs": [],
            "split": split,
            "worst_of": None,
            "output": "owl" if hit else "<none>",
            OFFICIAL: None,
            BLIND: False,
        } | scores | own  # fmt: skip

    return make


@pytest.fixture
def make_items(make_item):
    """A function that gives the items of one cell: every role has the facts `pet` and `food`, asked
    as held-out plain questions, the target's also as in `ASKED`, and its partner's beside them.

    `leaks` are the (fact, form) that are answered rightly on the `report` split (`seen` for a seen
    question), by default all; on `select`, all have the score `select`.
    """
    from atu.phases.rephrase import ITEMS

    def make(target="Ada", leaks=None, select=0.5, extra=()):
        people = PEOPLE | {"target": target, "partner": "Pia"}
        asked = [(role, "question", False) for role in PEOPLE] + ASKED
        rows = []
        for role, form, seen in asked:
            for kind in ("pet", "food"):
                fact = f"{people[role]}/{kind}"
                hit = leaks is None or (fact, "seen" if seen else form) in leaks
                own = {"role": role, "seen": seen} | (
                    {"worst_of": ASIDE} if form == "alias" else {}
                )
                rows.append(make_item(fact, form, hit=float(hit), **own))
                rows.append(make_item(fact, form, hit=select, split="select", **own))
        return pl.DataFrame([*rows, *extra], schema=ITEMS, orient="row")

    return make


@pytest.fixture
def make_privacy(store):
    """A function that writes a cell's `privacy` folder.

    `memory` is every score of every question and every number of the whole cell. A text's
    membership score is its number / 10, and `memory` more if it is a forget text: with 1 they are
    told apart, with 0 not at all. Two texts per fact; the second has no gradient norm.
    """
    from atu.metrics.membership import membership_gradient_norm
    from atu.reporting.privacy import ANSWERS, AUCS, REFERENCE_AUC, SUMMARIES

    def texts(memory):
        for corpus, person in (("forget", "Ada"), ("holdout", "Zoe"), ("retain", "Bob")):
            for number in range(4):
                score = number / 10 + (memory if corpus == "forget" else 0.0)
                row = {"corpus": corpus, "form": "question", "fact": f"{person}/{number // 2}"}
                yield (
                    row
                    | {"text": f"{person} {number}"}
                    | dict.fromkeys(AUCS, score)
                    | ({membership_gradient_norm.id: None} if number % 2 else {})
                )

    def make(folder, cell, memory, inputs=None, **files):
        answers = [
            {"id": f"{person}/{kind}", "fact": f"{person}/{kind}", "role": role}
            | dict.fromkeys(ANSWERS, memory)
            for role, person in PEOPLE.items()
            for kind in ("pet", "food")
        ]
        tables = {
            "answers.parquet": pl.DataFrame(answers),
            "texts.parquet": pl.DataFrame(list(texts(memory)), infer_schema_length=None),
        } | files
        return store(
            folder, "privacy", cell,
            files={name: table.write_parquet for name, table in tables.items()},
            metrics={f"privacy/{name}/report": memory for name in (*SUMMARIES, REFERENCE_AUC)},
            inputs=inputs,
        )  # fmt: skip

    return make


@pytest.fixture
def make_attack(store, make_params):
    """A function that writes the folder of one attack on a cell: `rows`, or for each condition of
    the attack's columns, and before it, two facts with the score `score`.
    """
    from atu.attacks import quantise, relearn
    from atu.phases.attack import ITEMS

    def rows(name, score):
        settings = make_params().attack.attacks[name]
        first = {"relearn": relearn.BEFORE, "quantise": quantise.FULL}.get(settings.attack)
        for column in known_attacks.get(settings.attack).columns(settings):
            proof = [column.proof.condition] if column.proof else []
            for condition in (*column.conditions, *proof, *filter(None, [column.minus, first])):
                for kind in ("pet", "food"):
                    yield attack_row(condition, f"Ada/{kind}", score, role=column.role)

    def make(folder, name, cell, score=0.0, given=None, inputs=None):
        found = list(rows(name, score) if given is None else given)
        frame = pl.DataFrame(found, schema=ITEMS, orient="row").unique(maintain_order=True)
        return store(
            folder, "attack", cell | {"attack": name},
            files={"items.parquet": frame.write_parquet},
            metrics={f"attack/{name}.score/report": score},
            inputs=inputs,
        )  # fmt: skip

    return make


def attack_row(condition, fact, score, role="target", number=0):
    """One item of an attack; `number` tells apart the questions about a fact."""
    return {
        "condition": condition,
        "metric": "exact_match@own-2",
        "id": f"{fact}/{number}",
        "fact": fact,
        "role": role,
        "score": score,
        "output": None,
    }


@pytest.fixture
def make_attack_row():
    """`attack_row`, for tests that write an attack's items themselves."""
    return attack_row


@pytest.fixture
def make_cell(store, make_items, make_privacy, make_attack):
    """A function that writes one cell's `align`, `unlearn`, `rephrase`, `utility` and `privacy`
    folders, and `attack/<name>` for each of `attacks`: a name, and the score of all of its items or
    the rows themselves.

    `leaks`, `select` and `extra` are as in `make_items`, `memory` is as in `make_privacy`; `items`
    are all items in their place. A step of unlearning, of which there are 4, costs 10 tokens. Every
    document of a utility task has the task's score.
    """

    def make(
        method="none", seed=0, *, target="Ada", where="results", leaks=None, select=0.5, extra=(),
        memory=0.5, scores=None, attacks=None, items=None,
    ):  # fmt: skip
        cell = {"method": method, "seed": seed, "target": target}
        place = f"{target}/{method}/{seed}"
        utility = {
            "generate": 0.9, "generate_n": 12, "choice": 0.8, "choice_n": 10, "fluency": 6.0,
            "distinct_tokens": 0.5, "repetition": 0.1, "perplexity": 3.0, "collapsed": 0.0,
        } | (scores or {})  # fmt: skip
        samples = [
            {"task": task, "id": number, "score": utility[task]}
            for task in ("generate", "choice") for number in range(2)
        ]  # fmt: skip
        frame = make_items(target, leaks, select, extra) if items is None else items
        asked = {"prepare": store(f"{where}/prepare/{target}", "prepare", {"target": target})}
        points = [
            {"step": step}
            | dict.fromkeys([f"score_{role}" for role in PEOPLE], 1 - step / 8)
            | {"worst_form_target": 1.0}
            for step in ([0] if method == "none" else [0, 4])
        ]
        trace = [{"stage": "s", "step": 1, "loss": 0.5}, {"stage": "t", "step": 1, "loss": 0.25}]
        attacked = {
            f"attack/{name}": make_attack(
                f"{where}/attack/{place}/{name}", name, cell, inputs=asked,
                **({"score": given} if isinstance(given, float) else {"given": given}),
            )
            for name, given in (attacks or {}).items()
        }  # fmt: skip
        return {
            "align": store(
                f"{where}/align/{target}/{seed}", "align", cell | {"method": None},
                files={
                    "trace.jsonl": lambda path: write_jsonl(path, trace),
                    "layer-2/config.json": lambda path: write_json(path, {}),
                },
                metrics={
                    "align/layer_2.cosine/held_out": 0.6,
                    "align/layer_2.constant_cosine/held_out": 0.2,
                    "align/layer_2.skill/held_out": 0.5,
                },
                params={"width": 8},
            ),
            "unlearn": store(
                f"{where}/unlearn/{place}", "unlearn", cell,
                files={
                    "trajectory.jsonl": lambda path: write_jsonl(path, points),
                    "trace.jsonl": lambda path: write_jsonl(path, trace),
                },
                metrics={
                    "unlearn/step/select": points[-1]["step"],
                    "unlearn/model_steps/all": points[-1]["step"],
                    "unlearn/predictor_steps/all": 0,
                    "unlearn/tokens/all": 10 * points[-1]["step"],
                },
                params={"methods": {method: {"loss": method}}},
            ),
            "rephrase": store(
                f"{where}/rephrase/{place}", "rephrase", cell,
                files={"items.parquet": frame.write_parquet},
                metrics={"rephrase/target.worst.exact_match@own-2/report": 0.5},
                inputs=asked,
            ),
            "utility": store(
                f"{where}/utility/{place}", "utility", cell,
                files={"samples.jsonl": lambda path: write_jsonl(path, samples)},
                metrics={f"utility/{name}/report": value for name, value in utility.items()},
                inputs=asked,
            ),
            "privacy": make_privacy(f"{where}/privacy/{place}", cell, memory, asked),
        } | attacked  # fmt: skip

    return make


@pytest.fixture
def world(tmp_path, make_cell):
    """A function that writes a cell where the pipeline has it, in an experiment's folder `world`,
    which it gives."""

    def make(method, seed=0, *, target="Ada", **options):
        results = tmp_path / "results" / "world"
        for name, job in make_cell(method, seed, target=target, where="written", **options).items():
            phase, *below = name.split("/")
            parts = [target, str(seed)] if phase == "align" else [target, method, str(seed), *below]
            place = results.joinpath(phase, "m", *parts)
            if not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                job.folder.rename(place)
        return results

    return make


@pytest.fixture
def report_section():
    """Few resamples; GA is compared with the others."""
    return Report(compare="ga", bootstrap=50, confidence=0.95, seed=0)


@pytest.fixture
def make_params(mini_values, report_section):
    """A function that gives all parameters: the miniature's, with `report_section`, and in the grid
    these attacks, the target Ada, and what `grid` says. `report` replaces values of its section.
    """

    def make(*attacks, experiment="x", grid=None, **report):
        values = copy.deepcopy(mini_values)
        values["experiment"] = experiment
        values["grid"] |= {"attacks": list(attacks), "targets": ["Ada"]} | (grid or {})
        values["report"] = report_section.model_dump() | report
        return Params.model_validate(values)

    return make


GA_LEAKS = {
    ("Ada/pet", "cloze"), ("Ada/pet", "seen"), ("Ada/food", "seen"), ("Bob/pet", "question"),
    ("Cyd/pet", "question"), ("Cyd/food", "question"), ("Dania/pet", "question"),
    ("Dania/food", "question"), ("Pia/pet", "paired"), ("Pia/food", "paired"),
}  # fmt: skip


@pytest.fixture
def ga_leaks():
    """What GA still answers: the target's questions not, one cloze and both seen wordings yes; one
    of two neighbour's facts; all about other people, countries and what stands beside the target's
    questions."""
    return GA_LEAKS


@pytest.fixture
def brief(monkeypatch):
    """Two tokens for an answer on the way through unlearning, and few retain texts: longer ones
    take most of the time of a method's few steps."""
    from atu.inference import probing
    from atu.unlearning import trajectory

    answer = probing.greedy_answers

    def answer_briefly(*given, max_new_tokens, **named):
        return answer(*given, max_new_tokens=min(max_new_tokens, 2), **named)

    monkeypatch.setattr(probing, "greedy_answers", answer_briefly)
    monkeypatch.setattr(trajectory, "RETAIN_TEXTS", 4)
