"""`atu memory`: a line per kind of job, with what finished ones took."""

import copy
import json

import pytest

from atu.config.params import Params
from atu.resources.listing import grid_jobs, grid_table, peaks
from atu.results.files import write_json
from atu.results.locks import Lock

SMOLLM2_135M = {
    "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
    "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
    "max_position_embeddings": 8192, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.fixture
def finished(tmp_path):
    """A function that writes what is read of a finished job's folder."""

    def write(place, phase, cell, memory):
        folder = tmp_path / phase / place
        folder.mkdir(parents=True)
        write_json(folder / "manifest.json", {"phase": phase, "cell": cell})
        write_json(folder / "provenance.json", {"memory": memory} if memory else {})
        return tmp_path

    return write


def test_every_job_is_listed(mini_params, tmp_path):
    lines = grid_table(mini_params, tmp_path, None).splitlines()
    assert [what for (_, what), _ in grid_jobs(mini_params)] == [
        "pretrain", "align", "unlearn none", "unlearn oracle", "unlearn atu", "unlearn ga",
        "rephrase", "utility", "privacy", "attack lens", "attack fresh_predictor",
    ]  # fmt: skip
    assert len(lines) == 1 + 11
    assert lines[0].split() == ["model", "job", "measured", "bound"]


def test_a_search_is_listed(mini_params, tmp_path):
    searched = mini_params.search.model_copy(update={"spaces": {"ga": {}}})
    params = mini_params.model_copy(update={"search": searched})
    jobs = [what for (_, what), _ in grid_jobs(params)]
    assert [what for what in jobs if what.startswith("search")] == ["search ga"]


def test_peaks_by_kind(finished):
    """Of the GPU where there was one; no other phase's word for a method; unfinished and older ones
    have none."""
    ga = {"model": "m", "method": "ga", "seed": 0}
    for place, phase, cell, memory in [
        ("0", "unlearn", ga, {"process_bytes": 5, "gpu_bytes": None}),
        ("1", "unlearn", ga, {"process_bytes": 5, "gpu_bytes": 7}),
        ("2", "unlearn", ga, None),
        (".3.partial", "unlearn", ga, {"process_bytes": 9, "gpu_bytes": None}),
        ("0", "rephrase", ga, {"process_bytes": 6, "gpu_bytes": None}),
        ("0", "attack", ga | {"attack": "lens"}, {"process_bytes": 4, "gpu_bytes": None}),
        ("0", "prepare", {}, {"process_bytes": 3, "gpu_bytes": None}),
    ]:
        results = finished(place, phase, cell, memory)
    finished("4", "unlearn", ga, {"process_bytes": 9, "gpu_bytes": None})
    (results / "unlearn/4/manifest.json").unlink()  # it is made again
    assert peaks(results) == {
        ("m", "unlearn ga"): [5, 7], ("m", "rephrase"): [6], ("m", "attack lens"): [4],
        ("", "prepare"): [3],
    }  # fmt: skip


def test_measured_peaks_stand_beside_the_bound(mini_params, finished):
    cell = {"model": "llama_tiny", "method": "ga"}
    finished("0", "unlearn", cell, {"process_bytes": 512_000_000, "gpu_bytes": None})
    results = finished("1", "unlearn", cell, {"process_bytes": 498_000_000, "gpu_bytes": None})
    lines = grid_table(mini_params, results, None).splitlines()
    assert [line.split("  ")[1] for line in lines if "512 MB (of 2)" in line] == ["unlearn ga"]
    assert "(of " not in "".join(line for line in lines if " unlearn ga " not in line)


def test_what_does_not_fit_follows_the_table(mini_params, tmp_path):
    last = grid_table(mini_params, tmp_path, 10**5).splitlines()[-1]
    assert last.startswith("llama_tiny: attack.attacks.fresh_predictor: needs at least ")
    assert "; 0.1 MB free; " in last


def test_smollm2_needs_what_its_weights_need(mini_values, tmp_path):
    """From a folder with nothing but its configuration. Its context of 8192 tokens is no text, so
    no line is far above 4.5 times its 0.54 GB: weights, a reference, gradients and AdamW."""
    (tmp_path / "config.json").write_text(json.dumps(SMOLLM2_135M), encoding="utf-8")
    Lock(content={}).write(tmp_path / "lock.json")
    source = {"place": str(tmp_path), "revision": None, "lock": str(tmp_path / "lock.json")}
    values = copy.deepcopy(mini_values)
    values["pretrain"]["models"] = {"llama_tiny": {"source": source, "finetune": False}}
    values["compute"]["precision"] = "float32"
    lines = grid_table(Params.model_validate(values), tmp_path / "none", None).splitlines()
    assert not any(" pretrain " in line for line in lines)
    [ga] = [line for line in lines if " unlearn ga " in line]
    assert ga.endswith("at least 2.2 GB (optimizer 1.1 GB, weights 538 MB, gradients 538 MB)")
    [rephrase] = [line for line in lines if " rephrase " in line]
    assert rephrase.endswith("at least 538 MB (weights 538 MB)")
