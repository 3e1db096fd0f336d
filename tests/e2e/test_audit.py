"""`atu audit` from end to end: checkpoints of a small model that knows six invented people by
heart, one that never heard of Ann, and one that is ruined.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from made.concept import ANN, FACTS, PEOPLE, statements, write_folder, write_model
from safetensors.torch import load_file, save_file
from trees import ROOT

SMALL = """
experiment: mine
base: {base}
keep: {{prepare: [], attack.attacks: [quantise, lens]}}
grid: {{targets: [{ann}], attacks: [quantise, lens]}}
prepare:
  benchmark: concept
  source: {{place: concept, revision: null, lock: concept.json}}
  select: 0.5
search: {{targets: [{ann}]}}
unlearn: {{probes: 6}}
utility: {{documents: 12, fluency_prompts: 4, fluency_tokens: 12}}
rephrase: {{max_new_tokens: 8}}
privacy: {{retain_texts: 6, gradient_texts: 3, verbatim_tokens: 8}}
attack: {{max_new_tokens: 8, attacks: {{quantise: {{schemes: [int8]}}}}}}
report: {{bootstrap: 100}}
"""


def questions():
    """Of every fact two wordings, about Ann and about Bertram, as the model has seen them."""
    rows = [
        {
            "role": role, "subject": PEOPLE[number], "form": form, "kind": "continuation",
            "query": sentence, "prompt": sentence[: sentence.index(values[number])].strip(),
            "answer": values[number],
        }
        for number, role in ((0, "target"), (1, "neighbour"))
        for wordings, values in FACTS.items()
        for form, wording in zip(("question", "cloze"), wordings, strict=False)
        for sentence in [wording.format(PEOPLE[number], values[number])]
    ]  # fmt: skip
    general = {"role": "general", "subject": "", "form": "question", "kind": "continuation"}
    person, values = PEOPLE[2], list(FACTS.items())
    rows += [
        general | {
            "query": f"g{k}", "prompt": wordings[2].format(person, "@").split("@")[0].strip(),
            "answer": found[2],
        }
        for k, (wordings, found) in enumerate(values)
    ]  # fmt: skip
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The benchmark, the original, the oracle, and a ruined copy of the original."""
    place = tmp_path_factory.mktemp("audit")
    write_model(place / "original")
    write_model(place / "oracle", unknown=(ANN,))
    shutil.copytree(place / "original", place / "ruined")
    torch.manual_seed(0)
    file = place / "ruined/model.safetensors"
    weights = {k: torch.randn_like(v) * 3 for k, v in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
    # What the original models as text: of others it would be worse than a guess, as the ruined is.
    retain = [
        {"text": text, "about": about}
        for number, about in ((1, PEOPLE[1]), (2, ""))
        for text in statements(number)
    ]
    write_folder(place / "concept", **{"questions.json": questions(), "retain.json": retain})
    shutil.copyfile(ROOT / "experiments/world.yaml", place / "world.yaml")
    (place / "mine.yaml").write_text(SMALL.format(base="world", ann=ANN), encoding="utf-8")
    return place


def audit(folder, *words, check=True):
    """`atu audit` as in a shell in this folder; what it said."""
    command = [sys.executable, "-m", "atu", "audit", "--params", "mine.yaml", "--offline", *words]
    done = subprocess.run(
        command, cwd=folder, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "MLFLOW_DISABLE_TELEMETRY": "true"},
    )  # fmt: skip
    if check and done.returncode:
        logs = "".join(p.read_text()[-1500:] for p in folder.rglob("logs/**/*.log"))
        raise AssertionError(done.stdout[-4000:] + logs)
    return done.stdout


def findings(folder, name):
    """What `audit.json` says of the checkpoint."""
    (verdict,) = json.loads((folder / name / "audit.json").read_text(encoding="utf-8")).values()
    return verdict, verdict["findings"]


def test_a_ruined_checkpoint_has_collapsed(folder):
    """It says nothing about Ann either, which is no forgetting."""
    said = audit(
        folder, "--model", "ruined", "--original", "original", "--oracle", "oracle", "--out", "a"
    )
    verdict, found = findings(folder, "a")
    assert verdict["headline"].startswith("checkpoint: COLLAPSED.") and verdict["headline"] in said
    assert found["collapsed"] and found["plain"][0]["finding"] != "leaks"
    assert found["plain"][0]["before"]["mean"] == 1 and found["plain"][0]["against"] == "the oracle"
    kept = {row["key"]: row for row in found["kept"]}
    # Against the original alone: this oracle, with a few facts, may have lost them too.
    assert kept["kept.neighbour"]["difference"]["high"] < 0
    page = (folder / "a/report.html").read_text(encoding="utf-8")
    assert "<h2>Verdict</h2>" in page and verdict["headline"] in page
    assert not (folder / "a.work/results/audit/align").exists()
    assert "Nothing to be done" in audit(
        folder, "--model", "ruined", "--original", "original", "--oracle", "oracle", "--out", "a"
    )


def test_a_checkpoint_alone_that_forgot_nothing(folder):
    """The original itself, which nobody says is one: no before, no oracle, and no failure."""
    audit(folder, "--model", "original", "--out", "b")
    verdict, found = findings(folder, "b")
    assert verdict["headline"].startswith("checkpoint: NOT FORGOTTEN.")
    assert [text[:14] for text in verdict["missing"]] == ["No original wa", "No oracle was "]
    assert found["plain"][0]["before"] is None and found["plain"][0]["estimate"]["mean"] == 1
    assert {row["lost"] for row in found["kept"]} == {None}


def test_another_tokenizer_is_refused_before_any_work(folder):
    shutil.copytree(folder / "original", folder / "lower")
    path = folder / "lower/tokenizer.json"
    values = json.loads(path.read_text(encoding="utf-8")) | {"normalizer": {"type": "Lowercase"}}
    path.write_text(json.dumps(values), encoding="utf-8")
    said = audit(folder, "--model", "lower", "--original", "original", "--out", "c", check=False)
    assert "unlearn.methods.checkpoint.source" in said and "copy the original's tokenizer" in said
    assert not (folder / "c").exists() and not (folder / "c.work/results").exists()
