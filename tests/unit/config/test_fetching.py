"""What `atu fetch` brings and locks, from folders and from a hub that a test plays."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from made import rwku
from made.models import write_model

from atu.config import fetching
from atu.config.fetching import fetch
from atu.config.load import check_values
from atu.config.params import Params
from atu.errors import ArtifactError, ConfigError, SourceError
from atu.models.folders import PATTERNS
from atu.models.pinned import pin
from atu.phases.prepare import run_shared, run_target
from atu.results.artifacts import MANIFEST, Artifact
from atu.results.locks import Lock, Source
from atu.untrusted.targets import Target

COMMIT = "c" * 40
KING, HARRY, *_ = rwku.PEOPLE


@pytest.fixture
def values(tmp_path, mini_values):
    """RWKU and a model, each in a folder."""
    rwku.write_folders(tmp_path / "rwku")
    write_model(tmp_path / "model", "llama", layers=3)
    found = copy.deepcopy(mini_values)
    found["grid"] |= {"targets": [KING], "methods": ["none", "atu", "ga"], "attacks": []}
    found["search"] |= {"targets": [KING], "spaces": {}}
    found["report"]["compare"] = "ga"
    found["prepare"] = {
        "benchmark": "rwku", "source": at(tmp_path, "rwku"), "corpus": "positive_phi3",
        "retain_targets": 1, "select": 0.5,
    }  # fmt: skip
    model = {"source": at(tmp_path, "model"), "finetune": False}
    found["pretrain"]["models"] = {"llama_tiny": model}
    return found


def at(folder, name, revision=None):
    return {
        "place": str(folder / name),
        "revision": revision,
        "lock": str(folder / f"{name}.lock.json"),
    }


def run(values, *, offline=True, update=False):
    """The news of a fetch: of the benchmark, the model and the encoder."""
    return list(fetch(Params.model_validate(values), offline=offline, update=update))


def locked(folder, name):
    return Lock.read(folder / f"{name}.lock.json")


def text_file(folder):
    return next((folder / "rwku" / "Target").glob("1_*")) / "positive_phi.json"


def test_the_first_fetch_writes_the_locks(values, tmp_path):
    benchmark, model, encoder = run(values)
    assert "locked in" in benchmark and "locked in" in model and "is here" in encoder
    tables, files = locked(tmp_path, "rwku").content, locked(tmp_path, "model").content
    assert f"({len(tables)} tables or files, {len(tables)} new)" in benchmark
    assert {"config.json", "model.safetensors"} <= set(files)


def test_a_model_without_a_tokenizer_is_not_locked(values, tmp_path):
    (tmp_path / "model" / "tokenizer.json").unlink()
    with pytest.raises(ArtifactError, match="model: holds no tokenizer"):
        run(values)
    assert not (tmp_path / "model.lock.json").exists()


def test_a_file_in_place_of_a_models_folder_is_not_looked_for_on_the_hub(values, tmp_path):
    """It is said what it is."""
    model = next(iter(values["pretrain"]["models"].values()))
    model["source"]["place"] += "/model.safetensors"
    with pytest.raises(ArtifactError, match="is one file of a model; name its folder"):
        run(values)
    assert not (tmp_path / "model.lock.json").exists()


def test_only_what_jobs_will_read_is_locked(values, tmp_path):
    """Of the target every table of its corpus; of one other person the texts; nothing of the other
    two, and not the corpus of another model."""
    run(values)
    names = set(locked(tmp_path, "rwku").content)
    by_person = {}
    for name in names:
        by_person.setdefault(name.split("/")[1], set()).add(name.split("/")[2])
    own = by_person.pop("1_Stephen_King")
    assert own == {"positive_phi.json", "forget_level1.json", "forget_level2.json",
                   "forget_level3.json", "neighbor_level1.json", "neighbor_level2.json",
                   "forget_mia.json", "retain_mia.json", "retain_mmlu.json", "retain_bbh.json",
                   "truthful.json", "triviaqa.json", "fluency.json"}  # fmt: skip
    assert list(by_person.values()) == [{"positive_phi.json"}]


def test_the_second_fetch_verifies(values, tmp_path):
    run(values)
    before = {p: p.read_bytes() for p in tmp_path.glob("*.lock.json")}
    benchmark, model, _ = run(values)
    assert "0 new" in benchmark and "0 new" in model and " says (" in benchmark
    assert {p: p.read_bytes() for p in tmp_path.glob("*.lock.json")} == before


def test_another_target_adds_its_tables(values, tmp_path):
    run(values)
    before = locked(tmp_path, "rwku").content
    values["grid"]["targets"] = [HARRY]
    run(values)
    after = locked(tmp_path, "rwku").content
    assert before.items() < after.items()
    assert any(
        "Prince_Harry,_Duke_of_Sussex/forget_level1" in name for name in set(after) - set(before)
    )


def test_what_was_altered_is_an_error_and_the_lock_stays(values, tmp_path):
    run(values)
    before = (tmp_path / "rwku.lock.json").read_bytes()
    text_file(tmp_path).write_text(json.dumps([{"text": "new"}]), encoding="utf-8")
    with pytest.raises(SourceError, match=r"positive_phi\.json' is altered"):
        run(values)
    assert (tmp_path / "rwku.lock.json").read_bytes() == before


def test_an_altered_weight_is_an_error(values, tmp_path):
    run(values)
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(SourceError, match=r"'model\.safetensors' is altered"):
        run(values)


def test_an_update_takes_over_what_is_here(values, tmp_path):
    """The one altered table is the only news; then it is what the lock says."""
    run(values)
    text_file(tmp_path).write_text(json.dumps([{"text": "new"}]), encoding="utf-8")
    assert ", 1 new)" in run(values, update=True)[0]
    assert ", 0 new)" in run(values)[0]


def test_the_lock_is_enough_for_jobs(values, tmp_path):
    """After a fetch the parameters pass, prepare runs and the model is pinned."""
    with pytest.raises(ConfigError, match=r"prepare\.source\.lock"):
        check_values(values)
    run(values)
    params = check_values(values)
    run_shared(tmp_path / "shared" / MANIFEST, params.prepare)
    shared = Artifact.open(tmp_path / "shared" / MANIFEST, "prepare")
    run_target(tmp_path / "one" / MANIFEST, params.prepare, Target((KING,)), shared)
    assert pin(params.pretrain.models["llama_tiny"].source)["files"]


def test_a_job_without_its_tables_in_the_lock_is_refused(values, tmp_path):
    run(values)
    params = check_values(values)
    run_shared(tmp_path / "shared" / MANIFEST, params.prepare)
    shared = Artifact.open(tmp_path / "shared" / MANIFEST, "prepare")
    with pytest.raises(
        SourceError, match=r"has no entry for 'Target/2_Prince.*`atu fetch` adds it"
    ):
        run_target(tmp_path / "one" / MANIFEST, params.prepare, Target((HARRY,)), shared)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one model at `COMMIT`: what was asked of it, and the commit it is at."""
    write_model(tmp_path / "snapshot", "llama", layers=3)
    played = SimpleNamespace(asked=[], commit=COMMIT, down=False)

    class Api:
        def repo_info(self, place, **options):
            played.asked.append(("info", place, options))
            if played.down:
                raise ConnectionError("no route\n to host")
            return SimpleNamespace(sha=played.commit)

    def download(place, **options):
        played.asked.append(("download", place, options))

    def located(source, revision=None):
        played.asked.append(("locate", source.place, revision))
        return tmp_path / "snapshot"

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr(fetching, "locate", located)
    return played


@pytest.fixture
def hub_values(values, tmp_path):
    source = {"place": "owner/name", "revision": "main", "lock": str(tmp_path / "hub.lock.json")}
    values["pretrain"]["models"]["llama_tiny"]["source"] = source
    return values


INFO = ("info", "owner/name", {"revision": "main", "repo_type": "model"})
DOWNLOAD = ("download", "owner/name", {"revision": COMMIT, "allow_patterns": list(PATTERNS)})


def test_of_the_hub_a_branch_becomes_a_commit(hub_values, hub, tmp_path):
    """Asked once; the download, the files and the lock are of that commit."""
    run(hub_values, offline=False)
    assert hub.asked == [INFO, DOWNLOAD, ("locate", "owner/name", COMMIT)]
    assert locked(tmp_path, "hub").revision == COMMIT


def test_a_locked_commit_is_not_asked_for_again(hub_values, hub, tmp_path):
    """The branch has moved on; what is fetched is what was locked."""
    run(hub_values, offline=False)
    hub.commit = "d" * 40
    del hub.asked[:]
    run(hub_values, offline=False)
    assert hub.asked == [DOWNLOAD, ("locate", "owner/name", COMMIT)]


def test_an_update_goes_where_the_branch_is(hub_values, hub, tmp_path):
    run(hub_values, offline=False)
    hub.commit = "d" * 40
    run(hub_values, offline=False, update=True)
    assert locked(tmp_path, "hub").revision == "d" * 40


def test_offline_nothing_is_asked_of_the_hub(hub_values, hub, tmp_path):
    run(hub_values)
    assert hub.asked == [("locate", "owner/name", "main")]


def test_a_hub_that_cannot_be_reached(hub_values, hub):
    hub.down = True
    with pytest.raises(
        SourceError, match=r"owner/name@main: .*ConnectionError: no route to host\)"
    ):
        run(hub_values, offline=False)


def test_another_commit_in_the_parameters_needs_an_update(hub_values, hub):
    run(hub_values, offline=False)
    hub_values["pretrain"]["models"]["llama_tiny"]["source"]["revision"] = "d" * 40
    with pytest.raises(SourceError, match=r"d{40} is requested; `atu fetch --update`"):
        run(hub_values, offline=False)


def test_tables_of_the_hub_are_locked_at_a_commit(values, hub, tmp_path, monkeypatch):
    """The data set's commit is asked for once, and every table is read of it."""
    asked = set()
    repository = rwku.write_repository(tmp_path / "repository")

    def load(place, config, *, split, revision, cache_dir):
        asked.add((place, revision, cache_dir))
        rows = (repository / f"{config}-{split}.jsonl").read_text(encoding="utf-8").splitlines()
        return SimpleNamespace(to_list=lambda: [json.loads(row) for row in rows])

    monkeypatch.setattr("datasets.load_dataset", load)
    values["prepare"]["source"] |= {"place": "owner/rwku", "revision": None}
    run(values, offline=False)
    assert hub.asked[0] == ("info", "owner/rwku", {"revision": None, "repo_type": "dataset"})
    assert asked == {("owner/rwku", COMMIT, None)}
    lock = Lock.of(Source("owner/rwku", COMMIT, str(tmp_path / "rwku.lock.json")))
    assert "forget_level1/test" in lock.content and Path(tmp_path / "rwku.lock.json").exists()
