"""Everybody in the real RWKU rows, and every set of the real TOFU, as jobs prepare them."""

import json

import polars as pl
import pytest
from made import real

from atu.probes.prompts import ASIDE
from atu.results.tables import read_table
from atu.untrusted.targets import Target

FILES = {"mmlu": "retain_mmlu", "bbh": "retain_bbh", "truthfulqa": "truthful",
         "triviaqa": "triviaqa", "fluency": "fluency"}  # fmt: skip
PROBES = ("forget_level1", "forget_level2", "forget_level3", "neighbor_level1", "neighbor_level2")


def rows_of(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def rwku(real_data, tmp_path_factory):
    """The folder, and each person's folder of `prepare` by name."""
    folder, out = real_data / "rwku", tmp_path_factory.mktemp("rwku")
    settings = real.rwku_settings(folder, out)
    targets = [Target((name,)) for name in real.people(folder)]
    real.lock(settings, targets)
    shared = real.prepare_shared(out / "prepare", settings)
    return folder, {
        t.label: real.prepare_target(out / "prepare", settings, t, shared) for t in targets
    }


def home(folder, name):
    (found,) = folder.glob(f"Target/*_{name.replace(' ', '_')}")
    return found


def test_every_row_of_everybody_is_prepared(rwku):
    """Every question once per wording, beside those that are reworded here; every text, and every
    row of every utility file as it is: control characters and byte order marks of MMLU among
    them."""
    folder, prepared = rwku
    assert len(prepared) == 10
    for name, artifact in prepared.items():
        files = home(folder, name)
        asked = {
            (row["role"], row["query"])
            for row in read_table(artifact.file("probes.parquet"))
            if row["worst_of"] != ASIDE
        }
        assert asked == {
            ("target" if file.startswith("forget") else "neighbour", row["query"])
            for file in PROBES
            for row in rows_of(files / f"{file}.json")
        }
        forget = [row["text"] for row in read_table(artifact.file("forget.parquet"))]
        assert forget == [row["text"] for row in rows_of(files / "positive_phi.json")]
        members = [row["text"] for row in read_table(artifact.file("members.parquet"))]
        assert members == [
            row["text"]
            for file in ("forget_mia", "retain_mia")
            for row in rows_of(files / f"{file}.json")
        ]
        for kind, file in FILES.items():
            task = rows_of(artifact.file(f"tasks/{kind}.json"))
            assert task == {"kind": kind, "rows": rows_of(files / f"{file}.json")}


def test_every_task_of_everybody_is_written_for_lm_eval(rwku, tmp_path):
    """Row by row, and lm-eval's own loader gives the same documents."""
    import datasets

    from atu.inference.lm_eval_files import write_benchmark

    _, prepared = rwku
    strange = 0
    for name, artifact in prepared.items():
        for kind in list(FILES)[:4]:
            rows = rows_of(artifact.file(f"tasks/{kind}.json"))["rows"]
            task = write_benchmark(tmp_path, kind, kind, rows, len(rows), "prepare", name)
            file = tmp_path / f"{task}.parquet"
            documents = pl.read_parquet(file).to_dicts()
            assert len(documents) == len(rows)
            strange += sum("\x80" in d["prompt"] or "\x85" in d["prompt"] for d in documents)
            loaded = datasets.load_dataset(
                "parquet",
                data_files=str(file),
                split="train",
                cache_dir=str(tmp_path / name / kind),
            )
            assert loaded.to_list() == documents
    assert strange >= 2  # Stephen King's and Taylor Swift's


@pytest.mark.parametrize("share", ["01", "05", "10"])
def test_every_set_of_tofu_is_prepared(real_data, tmp_path, share):
    """The forget set and its retain set are all training texts; every wrong answer is kept."""
    folder = real_data / "tofu"
    settings, target = real.tofu_settings(folder, tmp_path), Target((f"forget{share}",))
    real.lock(settings, [target])
    shared = real.prepare_shared(tmp_path / "prepare", settings)
    prepared = real.prepare_target(tmp_path / "prepare", settings, target, shared)
    tables = {name: read_table(prepared.file(f"{name}.parquet"))
              for name in ("forget", "retain", "holdout", "probes")}  # fmt: skip
    count = 40 * int(share)
    assert len(tables["forget"]) == len(tables["holdout"]) == count
    assert len(tables["retain"]) == 4000 - count
    texts = [row["text"] for row in read_table(shared.file("corpus.parquet"))]
    assert [r["text"] for r in tables["retain"] + tables["forget"]] == texts
    lines = (folder / f"forget{share}_perturbed.json").read_text(encoding="utf-8").split("\n")
    rows = {row["question"]: row for row in map(json.loads, filter(None, lines))}
    asked = {p["query"]: p for p in tables["probes"] if p["role"] == "target"}
    assert {p["fact"] for p in asked.values()} == set(rows)
    for question, row in rows.items():
        assert asked[question]["answer"] == row["answer"]
        assert asked[question]["wrong"] == row["perturbed_answer"]
