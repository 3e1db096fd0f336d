"""Real and strange rows all the way: prepared, asked in every form, scored, by a random model.

All ten people take ten minutes; here are those whose files hold what others' do not.
"""

import json

import polars as pl
import pytest
from made import real, rwku, strange

from atu.untrusted.targets import Target

DOCUMENTS = {"Stephen King": 117, "Taylor Swift": 146, "Leonardo da Vinci": 30}
"""Of each task: rows 115 and 144 of MMLU hold the control characters."""


def scored_documents(folders, tasks):
    """How many documents each of these utility tasks has; every probe has its scores, and every
    task's is a share."""
    rephrased, utility, privacy = folders
    items = pl.read_parquet(rephrased.file("items.parquet"))
    assert len(items) and not items["score"].null_count()
    metrics = utility.metrics()
    assert all(0 <= metrics[f"utility/{task}/report"] <= 1 for task in tasks)
    assert len(pl.read_parquet(privacy.file("texts.parquet")))
    return {task: metrics[f"utility/{task}_n/report"] for task in tasks}


def counts(artifact, most):
    """Documents per utility task, as many as it has or `most`."""
    tasks = [name for name in artifact.manifest["artifacts"] if name.startswith("tasks/")]
    rows = {name: json.loads(artifact.file(name).read_text())["rows"] for name in tasks}
    return {
        name.removeprefix("tasks/").removesuffix(".json"): min(len(found), most)
        for name, found in rows.items()
        if "fluency" not in name
    }


@pytest.mark.parametrize("person", DOCUMENTS)
def test_a_real_person_is_asked_everything(real_data, tmp_path, mini_params, person):
    settings = real.rwku_settings(real_data / "rwku", tmp_path)
    target = Target((person,))
    real.lock(settings, [target])
    shared = real.prepare_shared(tmp_path / "prepare", settings)
    prepared = real.prepare_target(tmp_path / "prepare", settings, target, shared)
    most = DOCUMENTS[person]
    folders = real.evaluate(tmp_path, target, prepared, mini_params, documents=most)
    expected = counts(prepared, most)
    assert scored_documents(folders, expected) == expected


def test_real_tofu_is_asked_everything(real_data, tmp_path, mini_params):
    settings = real.tofu_settings(real_data / "tofu", tmp_path)
    target = Target(("forget05",))
    real.lock(settings, [target])
    shared = real.prepare_shared(tmp_path / "prepare", settings)
    prepared = real.prepare_target(tmp_path / "prepare", settings, target, shared)
    folders = real.evaluate(tmp_path, target, prepared, mini_params, documents=30)
    expected = {"generate": 30}
    assert scored_documents(folders, expected) == expected
    answers = pl.read_parquet(folders[2].file("answers.parquet"))
    assert not answers.select(pl.col("^tofu_truth.*$")).null_count().row(0)[0]


def test_strange_rows_are_asked_everything(tmp_path, mini_params):
    """Control characters, NUL, separators, marks of direction, byte order marks, halves of pairs,
    long texts, empty options and aliases in every field of every file. Blank texts are left out."""
    folder = strange.write_folders(tmp_path / "RWKU")
    settings, target = real.rwku_settings(folder, tmp_path), Target((rwku.PEOPLE[2],))
    real.lock(settings, [target])
    shared = real.prepare_shared(tmp_path / "prepare", settings)
    prepared = real.prepare_target(tmp_path / "prepare", settings, target, shared)
    forget = pl.read_parquet(prepared.file("forget.parquet"))["text"].to_list()
    assert len(forget) == len(rwku.FACTS) + len(strange.STRANGE)
    record = json.loads((prepared.folder / "provenance.json").read_text(encoding="utf-8"))
    assert record["replaced_surrogates"]["Target/3_Robert_Downey_Jr./forget_mia.json"] == 2
    folders = real.evaluate(tmp_path, target, prepared, mini_params, documents=100)
    expected = {"mmlu": 15, "bbh": 14, "truthfulqa": 14, "triviaqa": 14}
    assert scored_documents(folders, expected) == expected
