"""Checkpoints that somebody else made, in a parameter file: fetched, locked, and compared with the
original before any work.
"""

import copy
import json
import shutil
from pathlib import Path

import pytest
from made import rwku
from made.models import write_model

from atu.config.cells import job_folders
from atu.config.fetching import fetch
from atu.config.load import check_values
from atu.config.params import Params, needs_alignment
from atu.errors import ConfigError
from atu.results.locks import Lock

KING, HARRY, *_ = rwku.PEOPLE


def at(folder, name):
    return {
        "place": str(folder / name), "revision": None, "lock": str(folder / f"{name}.lock.json"),
    }  # fmt: skip


@pytest.fixture
def values(tmp_path, mini_values):
    """RWKU, a model with an oracle, and somebody's checkpoint of it, all locked."""
    rwku.write_folders(tmp_path / "rwku")
    for name in ("model", "given", "retained"):
        write_model(tmp_path / name, "llama", layers=3)
    found = copy.deepcopy(mini_values)
    found["grid"] |= {
        "targets": [KING], "methods": ["none", "oracle", "given"], "attacks": ["lens"],
    }  # fmt: skip
    found["search"] |= {"targets": [KING], "spaces": {}}
    found["report"]["compare"] = "given"
    found["prepare"] = {
        "benchmark": "rwku", "source": at(tmp_path, "rwku"), "corpus": "positive_phi3",
        "retain_targets": 1, "select": 0.5,
    }  # fmt: skip
    found["pretrain"]["models"] = {
        "llama_tiny": {
            "source": at(tmp_path, "model"), "finetune": False,
            "oracles": {KING: at(tmp_path, "retained")},
        }
    }  # fmt: skip
    found["unlearn"]["methods"]["given"] = {
        "loss": "checkpoint", "source": at(tmp_path, "given"),
    }  # fmt: skip
    return found


@pytest.fixture
def fetched(values):
    list(fetch(Params.model_validate(values), offline=True, update=False))
    return values


def lower(folder):
    """The model's tokenizer no longer tells capitals from small letters."""
    path = folder / "tokenizer.json"
    text = json.loads(path.read_text(encoding="utf-8")) | {"normalizer": {"type": "Lowercase"}}
    path.write_text(json.dumps(text), encoding="utf-8")


def test_they_are_fetched_and_locked(fetched, tmp_path):
    for name in ("given", "retained"):
        assert "model.safetensors" in Lock.read(tmp_path / f"{name}.lock.json").content
    assert check_values(fetched).grid.methods == ["none", "oracle", "given"]


@pytest.mark.parametrize(
    ("name", "key"),
    [("given", "unlearn.methods.given.source"),
     ("retained", f"pretrain.models.llama_tiny.oracles.{KING}")],
)  # fmt: skip
def test_another_tokenizer_is_refused_before_any_work(fetched, tmp_path, name, key):
    lower(tmp_path / name)
    with pytest.raises(ConfigError, match=r"gives other tokens .*copy the original's") as error:
        check_values(fetched)
    assert error.value.key == key


def test_a_missing_lock_is_named(fetched, tmp_path):
    (tmp_path / "given.lock.json").unlink()
    with pytest.raises(ConfigError, match=r"given\.lock\.json: cannot be read.*atu fetch"):
        check_values(fetched)


def test_a_checkpoint_that_is_gone_is_named(fetched, tmp_path):
    shutil.rmtree(tmp_path / "given")
    with pytest.raises(ConfigError, match=r"given: neither a folder nor"):
        check_values(fetched)


def test_every_target_needs_its_oracle(fetched):
    fetched["grid"]["targets"] = [KING, HARRY]
    with pytest.raises(ConfigError, match=rf"without {HARRY}; .*llama_tiny\.oracles"):
        check_values(fetched)


def test_a_model_that_came_trained_has_no_second_oracle(fetched):
    fetched["grid"]["methods"].append("second_oracle")
    with pytest.raises(ConfigError, match=r"second_oracle.*nothing to train from another seed"):
        check_values(fetched)


def test_a_model_that_is_trained_here_has_its_own_oracle(fetched):
    fetched["pretrain"]["models"]["llama_tiny"]["finetune"] = True
    fetched["prepare"] = {"benchmark": "world", "seed": 7, "people": 8, "holdout_people": 2,
                          "other_facts": 10, "two_hops": "requested"}  # fmt: skip
    with pytest.raises(ConfigError, match=r"oracles.*trained here, and its oracle with it"):
        check_values(fetched)


def test_the_original_may_be_missing_where_nothing_is_trained(fetched):
    fetched["grid"]["methods"] = ["given"]
    assert check_values(fetched)
    fetched["grid"]["methods"] = ["given", "ga"]
    with pytest.raises(ConfigError, match="add `none`"):
        check_values(fetched)


@pytest.mark.parametrize(
    ("grid", "aligned"),
    [({}, False), ({"attacks": ["fresh_predictor"]}, True),
     ({"methods": ["none", "given", "atu"]}, True),
     ({"methods": ["none", "ga"], "attacks": []}, True)],
)  # fmt: skip
def test_an_audit_aligns_only_for_what_reads_it(values, tmp_path, grid, aligned):
    values["grid"] |= grid
    params = Params.model_validate(values)
    assert needs_alignment(params) == aligned
    phases = {path.parts[0] for path in job_folders(params, Path())}
    assert ("align" in phases) == ("embed" in phases) == aligned
