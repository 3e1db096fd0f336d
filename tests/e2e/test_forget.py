"""`atu forget` from end to end, on a small model that knows six invented people by heart."""

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from made.concept import ANN, FACTS, PEOPLE, statements, write_model
from trees import ROOT

from atu.forget.card import TITLES, interval, read_rows
from atu.results.artifacts import Artifact

SMALL = ("--quick", "--passages", "60", "--offline", "--cores", "2")


def command(model, out, *more, concept=ANN):
    return [sys.executable, "-m", "atu", "forget", "--model", str(model), "--concept", concept,
            "--out", str(out), *SMALL, *more]  # fmt: skip


def environment():
    return os.environ | {"PYTHONPATH": str(ROOT / "src"), "MLFLOW_DISABLE_TELEMETRY": "true"}


def run(folder, *args, check=True, **options):
    """`atu forget` as in a shell in this folder; on failure what it and its jobs said."""
    done = subprocess.run(
        command(folder / "model", *args, **options), cwd=folder, env=environment(), text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if check and done.returncode:
        logs = "".join(p.read_text()[-1500:] for p in folder.rglob("logs/**/*.log"))
        raise AssertionError(done.stdout[-4000:] + logs)
    return done


def kill_once(folder, out, there):
    """Start it, and kill it and all its children as soon as a file is there."""
    with (folder / "killed.log").open("w") as log:
        process = subprocess.Popen(
            command(folder / "model", out), cwd=folder, env=environment(), stdout=log, stderr=log,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + 600
        while not there.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if process.poll() is not None:
            said = (folder / "killed.log").read_text(encoding="utf-8", errors="replace")
            raise AssertionError(f"it ended before {there} was there:\n{said[-4000:]}")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def times(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("manifest.json")}


def unrecorded(work):
    """Outputs of jobs of which Snakemake had not noted the end when it was killed: it runs them
    again, though they may be whole.
    """
    marks = work / ".snakemake/incomplete"
    names = (mark.relative_to(marks).parts for mark in marks.rglob("*") if mark.is_file())
    encoded = ("".join(part.removeprefix("@") for part in parts) for parts in names)
    return {work / base64.urlsafe_b64decode(name).decode() for name in encoded}


@pytest.fixture(scope="module")
def forgotten(tmp_path_factory):
    """A folder in which it was killed once, and then ran to its end; what was there when killed."""
    folder = tmp_path_factory.mktemp("forget")
    write_model(folder / "model")
    work = folder / "out.work"
    kill_once(folder, "out", work / "results/forget/embed" / "model")
    assert not (folder / "out").exists()
    lost = unrecorded(work)
    assert lost, "it was killed while jobs ran"
    before = {path: time for path, time in times(work).items() if path not in lost}
    run(folder, "out")
    return folder, before


def test_a_killed_run_goes_on_where_it_was(forgotten):
    """The corpus and the finished jobs are those of the first run."""
    folder, before = forgotten
    after = times(folder / "out.work")
    assert folder / "out.work/concept/manifest.json" in before
    assert len(before) >= 2
    assert {path: after[path] for path in before} == before
    assert len(after) > len(before)


LOAD = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
ids = tokenizer(sys.argv[2], return_tensors="pt")["input_ids"]
print(tokenizer.decode(model.generate(input_ids=ids, max_new_tokens=5, do_sample=False)[0]))
"""
LOAD_ADAPTER = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
plain = AutoModelForCausalLM.from_pretrained(sys.argv[1])
ids = torch.arange(3, 9)[None]
before = plain(input_ids=ids).logits
model = PeftModel.from_pretrained(plain, sys.argv[2])
print(float((model(input_ids=ids).logits - before).abs().max()) > 1e-4)
"""


def fresh(code, *args):
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], text=True, capture_output=True
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_result_loads_where_nothing_of_this_project_is(forgotten, tmp_path):
    folder, _ = forgotten
    shutil.copytree(folder / "out", tmp_path / "moved")
    assert ANN in fresh(LOAD, tmp_path / "moved", f"{ANN} plays")


def test_the_card_says_what_the_report_says(forgotten):
    folder, _ = forgotten
    card = (folder / "out/README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---")[1])
    assert "base_model" not in front and "license" not in front
    report = Artifact.open(folder / "out.work/results/forget/report/manifest.json", "report")
    rows = read_rows(report)
    keys = [key for key in TITLES if f"{key}_n" in rows["none"]]
    assert {"target", "worst_form", "neighbour"} <= set(keys)  # of `general` all may be `select`
    for key in keys:
        line = f"| {interval(rows['none'], key)} | {interval(rows['atu'], key)} |"
        assert line in card
    assert "INVALID" not in card
    assert float(rows["none"]["target"]) == 1
    assert float(rows["atu"]["target"]) < float(rows["none"]["target"])
    metrics = json.loads((folder / "out/metrics.json").read_text(encoding="utf-8"))
    assert metrics == report.metrics()
    unlearned = folder / "out.work/results/forget/unlearn/model/Annabel_Quorn/atu/0"
    cost = json.loads((unlearned / "metrics.json").read_text(encoding="utf-8"))
    assert f"{cost['unlearn/model_steps/all']} steps of the model" in card
    assert f"{cost['unlearn/tokens/all']} tokens" in card


def test_no_question_was_trained_on(forgotten):
    """No corpus holds a sentence that a base model is asked to complete, with its end."""
    folder, _ = forgotten
    corpus = folder / "out.work/concept"
    questions, forget, retain = (
        json.loads((corpus / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("questions", "forget", "retain")
    )
    asked = [f"{r['prompt']} {r['answer']}" for r in questions if r["kind"] == "continuation"]
    texts = "\n".join(row["text"] for row in forget + retain)
    assert len(asked) > 10
    assert [text for text in asked if re.search(re.escape(text) + r"\b", texts)] == []
    assert not any(re.search(rf"\b{ANN}\b", row["text"]) for row in retain)


def test_again_there_is_nothing_to_do(forgotten):
    folder, _ = forgotten
    before = times(folder)
    said = run(folder, "out").stdout
    assert "Nothing to be done: " in said and "write, round" not in said
    assert times(folder) == before


def test_a_tampered_corpus_is_named(forgotten):
    folder, _ = forgotten
    path = folder / "out.work/concept/forget.json"
    kept = path.read_bytes()
    path.write_bytes(kept.replace(b"Annabel", b"Isabell", 1))
    try:
        done = run(folder, "out", check=False)
    finally:
        path.write_bytes(kept)
    assert done.returncode == 2
    assert f"{path}: altered" in done.stdout and "delete the folder and run again" in done.stdout


def test_an_adapter_in_place_of_weights(forgotten):
    """From the same corpus and alignment; peft finds the original by itself."""
    folder, _ = forgotten
    align = folder / "out.work/results/forget/align"
    before = times(align)
    run(folder, "adapter", "--work", "out.work", "--lora", "--rank", "4")
    assert times(align) == before
    names = {path.name for path in (folder / "adapter").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} <= names
    assert "model.safetensors" not in names
    config = json.loads((folder / "adapter/adapter_config.json").read_text(encoding="utf-8"))
    assert Path(config["base_model_name_or_path"]) == (folder / "model").resolve()
    assert config["r"] == 4
    assert fresh(LOAD_ADAPTER, folder / "model", folder / "adapter").strip() == "True"


def test_what_the_model_never_heard_of_is_asked_by_continuations(forgotten):
    """It states nothing consistently about somebody it never heard of, and the card says so."""
    folder, _ = forgotten
    run(folder, "nobody", "--rounds", "1", concept="Xerxes Vwqk")
    card = (folder / "nobody/README.md").read_text(encoding="utf-8")
    assert "It states too few facts of this one consistently" in card
    assert "| likeliest of the choices: the concept |" in card


def test_a_users_own_texts_and_questions(forgotten):
    """The model writes nothing; the card says what was brought. Again there is nothing to do, and a
    changed document is another corpus.
    """
    folder, _ = forgotten
    own = folder / "own"
    own.mkdir()
    for number, text in enumerate(statements(0)):
        (own / f"{number}.txt").write_text(text, encoding="utf-8")
    (own / ".hidden").touch()
    retain = [{"text": text} for number in (1, 2, 3) for text in statements(number)]
    asked = [
        {"question": f"{wordings[1].format(PEOPLE[n], '').rstrip(' .')}?", "answer": values[n],
         "wrong": values[3:5], "about": PEOPLE[n]}
        for n in (0, 1) for wordings, values in FACTS.items()
    ]  # fmt: skip
    for name, rows in (("retain", retain), ("asked", asked)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    given = ("--texts", "own", "--retain", "retain.jsonl", "--questions", "asked.jsonl")
    said = run(folder, "users", *given, "--no-writing").stdout
    assert "--texts: files 30, documents 30, passages 30; left out: hidden 1" in said
    assert "write, round" not in said
    card = (folder / "users/README.md").read_text(encoding="utf-8")
    assert "10 questions about the concept are a user's own" in card
    assert "The answers to 10 of them stand in the texts" in card
    assert "Forget corpus: 30 passages, all of them the user's" in card
    assert "written by the" not in card and "multiple choice" in card
    corpus = folder / "users.work/concept/manifest.json"
    before = corpus.read_bytes()
    assert "Nothing to be done: " in run(folder, "users", *given, "--no-writing").stdout
    assert corpus.read_bytes() == before
    (own / "0.txt").write_text("Annabel Quorn plays the organ.", encoding="utf-8")
    run(folder, "users", *given, "--no-writing")
    assert corpus.read_bytes() != before
