import json
import math

import pytest

from atu.errors import ArtifactError
from atu.results.artifacts import MANIFEST, METRICS, SCHEMA, Artifact
from atu.results.files import read_jsonl, read_tensors, sha256, write_jsonl
from atu.results.jobs import write_folder

CELL = {"model": "m", "seed": 0}


@pytest.fixture
def write(tmp_path):
    """A function that writes a folder of the phase `align` and opens it."""

    def write(name="align", *, text="hello", metrics=None, params=None, inputs=None, notes=None):
        manifest = tmp_path / name / MANIFEST
        with write_folder(
            manifest, "align", cell=CELL, params=params or {"k": 1}, inputs=inputs or {}
        ) as job:
            job.path("model/weights.txt").write_text(text)
            write_jsonl(job.path("trace.jsonl"), [{"step": 1}, {"step": 2}])
            job.metrics = metrics or {"align/cosine/train": 0.5}
            job.notes |= notes or {}
        return Artifact.open(manifest, "align")

    return write


def test_round_trip(write):
    artifact = write()
    assert artifact.file("model/weights.txt").read_text() == "hello"
    assert artifact.subfolder("model") == artifact.folder / "model"
    assert artifact.metrics() == {"align/cosine/train": 0.5}
    assert artifact.read_jsonl("trace.jsonl") == [{"step": 1}, {"step": 2}]
    assert artifact.cell == CELL


def test_manifest_lists_all_but_itself_and_provenance(write):
    """The sha256 of "hello" begins 2cf24dba and it has 5 bytes."""
    manifest = write().manifest
    assert set(manifest) == {"schema", "phase", "cell", "params", "inputs", "artifacts"}
    assert sorted(manifest["artifacts"]) == ["metrics.json", "model/weights.txt", "trace.jsonl"]
    listed = manifest["artifacts"]["model/weights.txt"]
    assert listed["bytes"] == 5
    assert listed["sha256"].startswith("2cf24dba")


def test_provenance_stands_beside_the_manifest(write):
    provenance = json.loads((write().folder / "provenance.json").read_text())
    assert {"code", "device", "libraries", "machine", "threads", "started"} <= set(provenance)


def test_notes_go_to_the_provenance_alone(write):
    """The batch size that was used in the end is worth a note, and no result depends on it: the
    folder's digest is the same with and without."""
    noted, plain = write("noted", notes={"batch_size": 8}), write("plain")
    provenance = json.loads((noted.folder / "provenance.json").read_text())
    assert provenance["batch_size"] == 8
    assert {"code", "device", "libraries", "machine", "threads", "started"} <= set(provenance)
    assert "batch_size" not in json.loads((plain.folder / "provenance.json").read_text())
    assert noted.digest == plain.digest
    assert "batch_size" not in (noted.folder / MANIFEST).read_text() + json.dumps(noted.metrics())


def test_same_content_gives_the_same_bytes(write):
    first, second = write("first"), write("second")
    assert (first.folder / MANIFEST).read_bytes() == (second.folder / MANIFEST).read_bytes()
    assert first.digest == second.digest


def test_the_digest_follows_content_params_and_inputs(write):
    base = write("base")
    others = [
        write("text", text="hallo"),
        write("params", params={"k": 2}),
        write("metrics", metrics={"align/cosine/train": 0.25}),
        write("inputs", inputs={"pretrain": base}),
        write("other_inputs", inputs={"pretrain": write("text2", text="x")}),
    ]
    assert len({base.digest, *(other.digest for other in others)}) == 6


def test_an_exception_leaves_nothing(tmp_path, write):
    with (
        pytest.raises(KeyboardInterrupt),
        write_folder(
            tmp_path / "align" / MANIFEST, "align", cell=CELL, params={}, inputs={}
        ) as job,
    ):
        job.path("weights.txt").write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_an_exception_keeps_the_older_result(tmp_path, write):
    older = write()
    with pytest.raises(ArtifactError):
        write(text="newer", metrics={"align/cosine/train": math.nan})
    assert older.file("model/weights.txt").read_text() == "hello"
    assert [path.name for path in tmp_path.iterdir()] == ["align"]


def test_a_new_result_leaves_no_file_of_the_old_one(tmp_path, write):
    write()
    with write_folder(
        tmp_path / "align" / MANIFEST, "align", cell=CELL, params={}, inputs={}
    ) as job:
        job.path("other.txt").write_text("x")
    names = {path.name for path in (tmp_path / "align").iterdir()}
    assert names == {"other.txt", "metrics.json", "manifest.json", "provenance.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["align"]


def test_what_a_killed_job_left_does_not_enter_the_next_one(tmp_path, write):
    """A kill leaves the scratch folder behind; the next job starts from an empty one."""
    scratch = tmp_path / ".align.partial"
    scratch.mkdir()
    (scratch / "stale.txt").write_text("x")
    assert not (write().folder / "stale.txt").exists()
    assert not scratch.exists()


def test_two_writers_of_one_folder_do_not_mix(tmp_path, write):
    """The second is refused, before it touches what the first has written; the first finishes."""
    with write_folder(
        tmp_path / "align" / MANIFEST, "align", cell=CELL, params={}, inputs={}
    ) as job:
        job.path("first.txt").write_text("x")
        with pytest.raises(ArtifactError, match="is writing align; wait for it or end it"):
            write()
    assert Artifact.open(tmp_path / "align" / MANIFEST, "align").file("first.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["align"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_metrics_must_be_finite(tmp_path, write, value):
    with pytest.raises(ArtifactError, match="align/loss/train"):
        write(metrics={"align/loss/train": value, "align/cosine/train": 1.0})
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_an_artifact_error(tmp_path, write):
    (tmp_path / "results").write_text("not a folder")
    with pytest.raises(ArtifactError, match=r"results.*cannot be written"):
        write("results/align")


def test_a_file_in_place_of_the_folder_is_refused(tmp_path, write):
    """Nothing that a person put there is lost, and once it is gone the job runs."""
    (tmp_path / "align").write_text("not a folder")
    with pytest.raises(ArtifactError, match="align: is a file instead of a folder"):
        write()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["not a folder"]
    (tmp_path / "align").unlink()
    assert write().cell == CELL


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path):
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(bytes(content))


DAMAGES = [
    pytest.param(_truncate, "4 bytes instead of 5", id="truncated"),
    pytest.param(_flip, "altered, its sha256", id="bit flipped"),
    pytest.param(lambda path: path.unlink(), "missing", id="missing"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
@pytest.mark.parametrize(
    "read", [lambda a: a.file("model/weights.txt"), lambda a: a.subfolder("model")]
)
def test_a_damaged_file_is_refused_by_name(write, damage, message, read):
    artifact = write()
    damage(artifact.folder / "model" / "weights.txt")
    with pytest.raises(ArtifactError, match=rf"model/weights\.txt: .*{message}"):
        read(artifact)


def test_check_reads_every_file(write):
    """Among them one that no `subfolder("model")` covers."""
    artifact = write()
    artifact.check()
    _flip(artifact.folder / "trace.jsonl")
    with pytest.raises(ArtifactError, match=r"trace\.jsonl: altered"):
        artifact.check()


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_unlearned_weights_are_repaired_by_a_command(tmp_path, damage, message):
    """DVC leaves them out, so that they may well be missing, or be those of another version."""
    manifest = tmp_path / "job" / MANIFEST
    with write_folder(manifest, "unlearn", cell=CELL, params={}, inputs={}) as job:
        job.path("model/model.safetensors").write_text("hello")
    artifact = Artifact.open(manifest, "unlearn")
    damage(manifest.parent / "model/model.safetensors")
    with pytest.raises(ArtifactError, match=rf"model\.safetensors: .*{message}.*`make weights`"):
        artifact.subfolder("model")


def test_the_same_result_again_changes_no_file(write):
    """Not even the provenance, though it was made at another time; else DVC would see a change.
    Snakemake has removed the manifest and the metrics before it runs a job again."""

    def files(artifact):
        return {p.name: p.read_bytes() for p in artifact.folder.rglob("*") if p.is_file()}

    first = write(notes={"run": 1})
    before = files(first)
    for name in (MANIFEST, "metrics.json"):
        (first.folder / name).unlink()
    assert files(write(notes={"run": 2})) == before


@pytest.mark.parametrize("older", ["other", "cut", "absent"])
def test_another_result_has_its_own_provenance(write, older):
    """Also where the older one cannot be read."""
    first = write(text="other" if older == "other" else "hello", notes={"run": 1})
    record = first.folder / "provenance.json"
    if older == "cut":
        record.write_text("{")
    if older == "absent":
        record.unlink()
    again = json.loads((write(notes={"run": 2}).folder / "provenance.json").read_text())
    assert again["run"] == 2
    assert again["manifest"] == write().digest


def test_a_file_that_is_not_listed_is_refused_by_name(write):
    artifact = write()
    (artifact.folder / "extra.txt").write_text("x")
    with pytest.raises(ArtifactError, match=r"extra\.txt: not listed"):
        artifact.file("extra.txt")


def test_a_subfolder_with_nothing_listed_is_refused(write):
    """`mod` is the beginning of a listed name but no folder."""
    with pytest.raises(ArtifactError, match="mod: nothing listed"):
        write().subfolder("mod")


@pytest.mark.parametrize("name", ["extra.txt", "deep/extra.txt"])
def test_a_subfolder_with_an_extra_file_is_refused(write, name):
    """Whoever reads the folder as a whole would read what the manifest never saw."""
    artifact = write()
    extra = artifact.folder / "model" / name
    extra.parent.mkdir(exist_ok=True)
    extra.write_text("x")
    with pytest.raises(ArtifactError, match=rf"model/{name}: not listed in manifest\.json; remove"):
        artifact.subfolder("model")


def _manifest(without=None, **changes):
    whole = {"schema": SCHEMA, "phase": "align", "cell": CELL, "artifacts": {}} | changes
    return json.dumps({key: value for key, value in whole.items() if key != without}).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(_manifest(phase="embed"), "holds phase 'embed', but 'align'", id="phase"),
        pytest.param(_manifest(schema="atu-manifest-0"), "not written by this version", id="old"),
        pytest.param(_manifest(without="artifacts"), "incomplete; delete", id="no artifacts"),
        pytest.param(_manifest(artifacts=[]), "incomplete; delete", id="artifacts no mapping"),
        pytest.param(_manifest(without="cell"), "incomplete; delete", id="no cell"),
        pytest.param(b"[1]", "not written by this version", id="list"),
        pytest.param(b'{"schema":', "not a manifest", id="cut"),
        pytest.param(b"\xff\xfe", "not a manifest", id="binary"),
        pytest.param(None, "missing; run `snakemake align` first", id="missing"),
    ],
)
def test_a_bad_manifest_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / MANIFEST
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"manifest\.json: .*{message}"):
        Artifact.open(path, "align")


def test_a_folder_in_place_of_the_manifest_is_refused(tmp_path):
    (tmp_path / MANIFEST).mkdir()
    with pytest.raises(ArtifactError, match=r"manifest\.json: cannot be read"):
        Artifact.open(tmp_path / MANIFEST, "align")


def test_only_the_manifest_opens_a_folder(write):
    with pytest.raises(ArtifactError, match=r"metrics\.json: name the folder's manifest\.json"):
        Artifact.open(write().folder / "metrics.json", "align")


@pytest.mark.parametrize(
    "text", ["plain", "two\nlines", 'quote " and \\', "a€b", "", "\x85", "\u2028", "\u2029"]
)
def test_jsonl_round_trip(tmp_path, text):
    """A generated answer may hold any character, among them some that Python takes for a line's
    end."""
    rows = [{"answer": text, "b": 1, "a": None}, {"answer": "x"}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert read_jsonl(tmp_path / "rows.jsonl") == rows


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_jsonl_refuses_what_json_cannot_say(tmp_path, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_jsonl(tmp_path / "rows.jsonl", [{"loss": value}])


def forge(artifact, change):
    """The manifest again after `change`, as somebody writes it who knows every sha256."""
    path = artifact.folder / MANIFEST
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def listing(
    name, size=5, digest="2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
):
    """A change that lists a file; by default one that holds "hello"."""
    return lambda content: content["artifacts"].update({name: {"bytes": size, "sha256": digest}})


FORGED = {
    "a file above": (listing("../secret"), "not a path inside the folder"),
    "a file above, from below": (listing("model/../../secret"), "not a path inside"),
    "an absolute path": (listing("/etc/passwd"), "not a path inside"),
    "a backslash": (listing("..\\secret"), "not a path inside"),
    "a line break": (listing("a\nb"), "not a path inside"),
    "a name without end": (listing("x" * 300), "not a path inside"),
    "a pickle": (listing("model/weights.pt"), "runs code when it is read"),
    "a module": (listing("model/modeling_x.PY"), "runs code when it is read"),
    "a size that is text": (listing("a", size="5"), "a has no size and sha256"),
    "a size that is a boolean": (listing("a", size=True), "a has no size and sha256"),
    "no sha256": (listing("a", digest="0" * 63), "a has no size and sha256"),
    "no entry": (lambda c: c["artifacts"].update(a=None), "a has no size and sha256"),
    "artifacts as a list": (lambda c: c.update(artifacts=["a"]), "incomplete"),
    "a cell that is text": (lambda c: c.update(cell="m"), "incomplete"),
    "no parameters": (lambda c: c.pop("params"), "incomplete"),
    "a phase without end": (lambda c: c.update(phase=["x"] * 10_000), r"characters\), but 'align'"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_manifest_is_refused(write, name):
    change, reason = FORGED[name]
    path = forge(write(), change)
    with pytest.raises(ArtifactError, match=reason):
        Artifact.open(path, "align")


def test_a_forged_manifest_without_a_fault_is_read(write):
    """The changes above are what is refused, not the writing."""
    path = forge(write(), lambda content: content["cell"].update(model="other"))
    assert Artifact.open(path, "align").cell["model"] == "other"


@pytest.mark.parametrize("content", ["[" * 100_000, '{"schema": NaN}', '{"a": 1, "a": 2}'])
def test_a_manifest_that_is_no_strict_json(tmp_path, content):
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(ArtifactError, match="not a manifest"):
        Artifact.open(tmp_path / MANIFEST, "align")


def test_a_link_out_of_the_folder_is_refused_even_with_the_right_sha256(tmp_path, write):
    artifact = write()
    (tmp_path / "secret").write_text("hello")
    place = artifact.folder / "model/weights.txt"
    place.unlink()
    place.symlink_to(tmp_path / "secret")
    for read in (lambda: artifact.file("model/weights.txt"), lambda: artifact.subfolder("model")):
        with pytest.raises(ArtifactError, match=r"a link to .*secret, outside of the folder"):
            read()


def test_a_folder_that_is_a_link_out_is_refused(tmp_path, write):
    artifact = write()
    (artifact.folder / "model").rename(tmp_path / "elsewhere")
    (artifact.folder / "model").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="outside of the folder"):
        artifact.subfolder("model")


def test_unlisted_links_in_a_subfolder_are_refused(tmp_path, write):
    """To a file, to a folder, to nothing."""
    artifact = write()
    for target in (tmp_path, artifact.folder / MANIFEST, tmp_path / "nothing"):
        link = artifact.folder / "model/x"
        link.symlink_to(target)
        with pytest.raises(ArtifactError, match="not listed"):
            artifact.subfolder("model")
        link.unlink()
    assert artifact.subfolder("model")


def test_results_may_be_kept_on_another_disk(tmp_path, write):
    """A link that leads to a folder, not out of it, is its owner's affair."""
    artifact = write()
    (tmp_path / "link").symlink_to(artifact.folder)
    again = Artifact.open(tmp_path / "link" / MANIFEST, "align")
    assert again.file("model/weights.txt").read_text() == "hello"


@pytest.mark.parametrize("content", ['{"a": NaN}', "[1]", '{"a": "1"}', '{"a": true}'])
def test_metrics_that_are_no_numbers_are_refused(write, content):
    artifact = write()
    (artifact.folder / METRICS).write_text(content)
    digest = sha256(artifact.folder / METRICS)
    path = forge(artifact, listing(METRICS, len(content), digest))
    with pytest.raises(ArtifactError, match=r"metrics\.json"):
        Artifact.open(path, "align").metrics()


def test_rows_that_are_no_objects_are_refused(tmp_path):
    (tmp_path / "x.jsonl").write_text("[1]\n")
    with pytest.raises(ArtifactError, match="a row is not a JSON object"):
        read_jsonl(tmp_path / "x.jsonl")
    (tmp_path / "x.jsonl").write_text("[" * 100_000)
    with pytest.raises(ArtifactError, match="nested too deeply"):
        read_jsonl(tmp_path / "x.jsonl")


def test_tensors_that_are_none_are_refused(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(ArtifactError, match="cannot be read as safetensors"):
        read_tensors(tmp_path / "x.safetensors")


def writing(manifest):
    with write_folder(manifest, "align", cell=CELL, params={}, inputs={}):
        pass


def test_a_folder_that_no_job_wrote_is_not_replaced(tmp_path):
    """`--out project/manifest.json` would otherwise remove the project."""
    (tmp_path / "project/src").mkdir(parents=True)
    (tmp_path / "project/src/precious.py").write_text("x")
    with pytest.raises(ArtifactError, match="holds files that no job wrote"):
        writing(tmp_path / "project" / MANIFEST)
    assert (tmp_path / "project/src/precious.py").read_text() == "x"


def test_a_jobs_folder_without_its_declared_outputs_is_replaced(tmp_path, write):
    """Snakemake removes `manifest.json` and `metrics.json` before a job runs."""
    older = write(text="old").folder
    (older / MANIFEST).unlink()
    (older / METRICS).unlink()
    assert write(text="new").file("model/weights.txt").read_text() == "new"


@pytest.mark.parametrize("link", ["align/x", "align/x/y/0", "align"])
def test_links_from_the_phases_folder_down_are_not_written_through(tmp_path, link):
    (tmp_path / "elsewhere/x/y").mkdir(parents=True)
    (tmp_path / link).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / link).symlink_to(tmp_path / "elsewhere")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ArtifactError, match=f"{link}: is a link instead of a folder"):
        writing(tmp_path / "align/x/y/0" / MANIFEST)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_experiments_folder_may_be_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "experiment").symlink_to(tmp_path / "disk")
    writing(tmp_path / "experiment/align/0" / MANIFEST)
    assert (tmp_path / "disk/align/0" / MANIFEST).is_file()


@pytest.mark.parametrize("name", ["align/other.json", "align", "align/../manifest.json"])
def test_only_the_manifest_of_a_folder_of_its_own_is_written(tmp_path, name):
    with pytest.raises(ArtifactError, match=r"name the manifest\.json of a folder"):
        writing(tmp_path / name)
