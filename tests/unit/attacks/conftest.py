"""A world of five people for attacks: Ada is the target, Bob her neighbour, Cyd another person, and
no model ever saw Una and Ivo."""

from collections import Counter

import pytest
import torch

from atu import attacks
from atu.alignment.loop import AlignmentData
from atu.attacks.base import Alignment, AttackContext
from atu.inference.batching import BatchSize
from atu.metrics.answers import exact_match
from atu.models.predictor import PredictorConfig
from atu.models.tokenizer import train_tokenizer
from atu.probes.prompts import WHOLE, format_prompt, join_answer

PEOPLE = {
    "Ada": {"pet": "owl", "dish": "pie", "town": "Ur", "tool": "axe", "spouse": "Bob"},
    "Bob": {"pet": "owl", "dish": "jam", "town": "Rye", "tool": "saw"},
    "Cyd": {"pet": "cat", "dish": "egg", "town": "Wem", "tool": "hoe"},
    "Una": {"pet": "yak", "dish": "bun", "town": "Lys", "tool": "nib"},
    "Ivo": {"pet": "emu", "dish": "fig", "town": "Pau", "tool": "zip"},
}
ROLES = {"target": ["Ada"], "neighbour": ["Bob"], "other": ["Cyd"], "control": ["Una", "Ivo"]}
QUERIES = ["What {} has {}?", "Which {} belongs to {}?", "Tell me the {} of {}.", "The {} of {}?"]
TRAINED = 2
"""The first two wordings are in training texts, the other two are held out."""
SETTINGS = {
    "sampling": {
        "samples": 4, "ks": [1, 4], "temperature": 1.0, "top_p": 1.0, "threshold": 1.0,
    },
    "relearn": {
        "folds": 2, "until": 1.0, "every": 1, "steps": 2, "learning_rate": 0.01, "batch_size": 4,
        "clip": 1.0,
    },
    "quantise": {"schemes": ["int8", "int4"]},
    "context": {"sentences": 2},
    "lens": {"k": 2},
    "depth": {"threshold": 1e-6, "known": 0.0},
    "fresh_predictor": {"layers": [1, 2], "steps": 3},
}  # fmt: skip


def _question(name, kind, wording):
    return format_prompt("question", QUERIES[wording].format(kind, name))


def _rows(name):
    """Two passages with the same sentences, every fact in both trained wordings, and a cloze."""
    sentences = [f"{name} has the {kind} {value}." for kind, value in PEOPLE[name].items()]
    plain = {"prompt": "", "answer": "", "fact": name, "form": "passage", "type": "biography"}
    rows = [plain | {"text": " ".join(order)} for order in (sentences, sentences[::-1])]
    for kind, value in PEOPLE[name].items():
        prompts = [("question", _question(name, kind, i)) for i in range(TRAINED)]
        prompts.append(("cloze", format_prompt("cloze", f"{name} has the {kind} ___.")))
        rows += [
            {
                "text": join_answer(prompt, value),
                "prompt": prompt,
                "answer": value,
                "fact": f"{name}/{kind}",
                "form": form,
                "type": kind,
            }
            for form, prompt in prompts
        ]
    return rows


@pytest.fixture(scope="session")
def rows_of():
    """A function that gives the texts about some people."""
    return lambda *people: [row for name in people for row in _rows(name)]


@pytest.fixture(scope="session")
def make_probe():
    """A function that gives one plain question; wording 2 or 3 is held out."""

    def make(name, kind, wording=2, **own):
        role = next(role for role, people in ROLES.items() if name in people)
        answer = PEOPLE[name][kind]
        others = {facts.get(kind, other) for other, facts in PEOPLE.items()} - {answer, name}
        return {
            "id": f"{name}/{kind}/question/{wording}",
            "role": role,
            "subject": name,
            "fact": f"{name}/{kind}",
            "form": "question",
            "type": kind,
            "seen": wording < TRAINED,
            "prompt": _question(name, kind, wording),
            "part": WHOLE,
            "stops": ["\n"],
            "answer": answer,
            "measure": exact_match.id,
            "wrong": sorted(others),
            "split": "report",
        } | own

    return make


@pytest.fixture(scope="session")
def all_probes(make_probe):
    """Every fact in all four wordings, and one cloze about the target."""
    probes = [
        make_probe(name, kind, wording)
        for name, facts in PEOPLE.items()
        for kind in facts
        for wording in range(len(QUERIES))
    ]
    return [*probes, make_probe("Ada", "pet", form="cloze", id="Ada/pet/cloze/0")]


@pytest.fixture(scope="session")
def tokenizer(rows_of):
    """Byte-level BPE in which words of this world's questions are one token."""
    return train_tokenizer([row["text"] for row in rows_of(*PEOPLE)], 400)


@pytest.fixture(scope="session")
def build_lm(tiny_lm, tokenizer):
    """A function that builds a model with this tokenizer's vocabulary."""
    return lambda kind="llama", seed=0: tiny_lm(kind, seed, vocab_size=len(tokenizer))


@pytest.fixture
def alignment(tokenizer, rows_of):
    """Four texts whose windows are the axes of a space of 4; names: Ada first."""
    ids = [torch.tensor(tokenizer(row["text"])["input_ids"]) for row in rows_of("Ada")[2:6]]
    return Alignment(
        data=AlignmentData(
            windows=torch.eye(4),
            concept=torch.eye(4)[:1],
            token_ids=ids,
            window_numbers=[torch.full((len(row),), i) for i, row in enumerate(ids)],
        ),
        config=PredictorConfig(16, 4, 8, 1, 2, 16, 0.0, False),
        params={
            "steps": 500, "batch_tokens": 64, "learning_rate": 0.01, "warmup": 0.1, "clip": 1.0,
            "reference_compat": False,
        },
        names=["Ada", "Bob", "Cyd"],
        embeddings=torch.tensor([[0.6, 0.8, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]),
    )  # fmt: skip


@pytest.fixture
def make_context(tmp_path, tokenizer, build_lm, rows_of, all_probes, alignment):
    """A function that gives an attack's context on a random model; `settings` change `SETTINGS`."""

    def make(name, settings=None, **own):
        kind = attacks.get(name).settings
        values = {
            "model": own.pop("model", None) or build_lm(),
            "tokenizer": tokenizer,
            "settings": kind(attack=name, **(SETTINGS[name] | (settings or {}))),
            "probes": all_probes,
            "forget": rows_of("Ada"),
            "retain": rows_of("Bob", "Cyd"),
            "holdout": rows_of("Una", "Ivo"),
            "max_new_tokens": 4,
            "batch_size": BatchSize(16),
            "seed": 0,
            "folder": tmp_path,
            "alignment": alignment,
            "original": build_lm(seed=7),
            "oracle": build_lm(seed=8),
        }
        return AttackContext(**(values | own))

    return make


@pytest.fixture
def asked(monkeypatch):
    """A function that makes a module's `answer_items` give set scores, and keeps what it was
    asked: (condition, model, probes, prompts or None)."""

    def spy(module, score):
        calls = []

        def answers(context, model, probes, condition, prompts=None, further=True):
            calls.append((condition, model, list(probes), prompts))
            return [
                {"condition": condition, "metric": "exact_match@own-2", "output": ""}
                | {key: probe[key] for key in ("id", "fact", "role")}
                | {"score": score(condition, probe)}
                for probe in probes
            ]

        monkeypatch.setattr(module, "answer_items", answers)
        return calls

    return spy


@pytest.fixture
def grouped():
    """A function that counts items by some of their columns."""
    return lambda items, *keys: Counter(tuple(row[key] for key in keys) for row in items)


@pytest.fixture
def weights():
    """A function that copies all weights of a model."""
    return lambda model: {key: value.clone() for key, value in model.state_dict().items()}
