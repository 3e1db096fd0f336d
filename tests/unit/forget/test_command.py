"""What `atu forget` refuses before it computes anything, and what it keeps."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from made import models
from made.concept import ANN
from made.gguf import Made

from atu.config.written import params_text
from atu.errors import ArtifactError, AtuError, ConfigError
from atu.forget import command
from atu.forget.brought import Places, read_brought
from atu.forget.command import PARAMS, ForgetRequest, run
from atu.forget.corpus import Concept, is_written, settings
from atu.forget.settings import Writing
from atu.models.pinned import split_revision
from atu.results.jobs import write_folder
from atu.workfolder import workflow
from atu.workfolder.folder import is_here, keep_params, require_params


@pytest.fixture
def request_of(tmp_path):
    """A function that gives a request for a made model, with changes."""

    def make(**changes):
        given = ForgetRequest(
            model=str(models.write_model(tmp_path / "model", "llama", 4)),
            concept=Concept((ANN,)), writing=Writing(), method="atu", rank=None,
            encoder="all-MiniLM-L6-v2", out=tmp_path / "out", work=tmp_path / "work",
            offline=True, cores=1, threads=1,
        )  # fmt: skip
        return replace(given, **changes)

    return make


BAD = {
    "no folder": ({"model": "./nowhere"}, r"--model = './nowhere': no such folder"),
    "no name of the hub": ({"model": "bert"}, r"--model = 'bert': no such folder, and no `owner/"),
    "not in the cache": ({"model": "own/er@v1"}, r"own/er@v1: neither a folder nor in the local"),
    "an empty name": ({"concept": Concept((" ",))}, r"--concept = ' ': is empty"),
    "no name": ({"concept": Concept(())}, r"--concept = None: name what is to be forgotten"),
    "two lines": ({"concept": Concept(("a\nb",))}, r"--concept = 'a\\nb': has a line break"),
    "a path": ({"concept": Concept(("../x",))}, r"--concept = '../x': .*could leave results"),
    "a reserved name": ({"concept": Concept(("shared",))}, r"--concept = 'shared': .*reserved"),
    "an escape": ({"concept": Concept((ANN,), ("\x1b[2J",))}, r"--describe = .*control characters"),
    "a line of Unicode": (
        {"concept": Concept(("A\u2028evil: 1",))},
        r"--concept = .*has a line break",
    ),
    "no letter": ({"concept": Concept(("!!!",))}, r"--concept = '!!!': has no letter or digit"),
    "a neighbour that is the concept": (
        {"concept": Concept(("Ann B.",), (), ("ann b",))},
        r"--neighbour = 'ann b': is a name of the concept itself",
    ),
    "braces": ({"concept": Concept((ANN,), (), ("{x}",))}, r"--neighbour = '{x}': .*braces"),
    "an unknown method": ({"method": "dpo"}, r"--method = 'dpo': needs more than texts"),
    "no encoder": ({"encoder": "no/such"}, r"embed.encoder = 'no/such'"),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_a_bad_option_is_named_with_its_value(request_of, changes, message):
    with pytest.raises(AtuError, match=message):
        run(request_of(**changes), dry_run=True)


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_a_refusal_leaves_nothing_behind(request_of, tmp_path, changes, message):
    """Neither the work folder nor one above it, though both were missing."""
    request = request_of(**({"work": tmp_path / "new/work"} | changes))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(AtuError, match=message):
        run(request, dry_run=False)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_refusal_leaves_what_was_there(request_of, tmp_path):
    """A work folder that another run made, and its lock."""
    run(request_of(), dry_run=True)
    work = tmp_path / "work"
    (work / "mine").touch()
    before = sorted(tmp_path.rglob("*"))
    assert work / "locks/model.json" in before
    with pytest.raises(AtuError, match="no such folder"):
        run(request_of(model="./nowhere"), dry_run=False)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_failure_amid_the_work_keeps_it(request_of, tmp_path, monkeypatch):
    """The corpus takes long to write, and goes on where it was."""

    def fail(request, *_):
        (request.work / "concept").mkdir()
        raise ArtifactError("the disk is full")

    monkeypatch.setattr(command, "_write", fail)
    with pytest.raises(ArtifactError, match="disk is full"):
        run(request_of(), dry_run=False)
    assert (tmp_path / "work/concept").is_dir()


FILES = {
    "model.safetensors": r"is one file of a model; name its folder, .*model$",
    "model.gguf": r"does not begin with `GGUF`",
}


@pytest.mark.parametrize(("name", "message"), FILES.items(), ids=FILES)
def test_a_file_in_place_of_the_models_folder(request_of, tmp_path, name, message):
    given = request_of()
    path = tmp_path / "model" / name
    path.touch()
    with pytest.raises(ArtifactError, match=message):
        run(replace(given, model=str(path)), dry_run=False)
    assert not (tmp_path / "work").exists()


BROUGHT = {
    "no texts": (Places((Path("nowhere"),)), r"--texts nowhere: no such file or folder"),
    "nothing to keep": (
        Places((), (Path("nowhere"),)),
        r"--retain nowhere: no such file or folder",
    ),
    "no questions": (Places((), (), Path("q.jsonl")), r"--questions q\.jsonl: is no \.jsonl file"),
}


@pytest.mark.parametrize(("places", "message"), BROUGHT.values(), ids=BROUGHT)
def test_what_is_brought_is_read_before_the_model(request_of, tmp_path, places, message):
    """There is none; and nothing is left behind."""
    request = request_of(model="./nowhere", places=places)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(AtuError, match=message):
        run(request, dry_run=False)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.fixture
def brought_by(request_of, tmp_path):
    """A request in which all is the user's, and the folder of the model."""
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text(f"{ANN} sings.", encoding="utf-8")
    (tmp_path / "keep.md").write_text("Snow is white.", encoding="utf-8")
    rows = ({"question": f"{k}?", "answer": f"thing {k}"} for k in range(16))
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    places = Places((tmp_path / "texts",), (tmp_path / "keep.md",), tmp_path / "q.jsonl")
    return request_of(places=places, writing=Writing(writes=False))


def test_a_dry_run_says_what_was_read(brought_by, capsys):
    run(brought_by, dry_run=True)
    said = capsys.readouterr()
    assert "--texts: files 1, documents 1, passages 1\n" in said.err
    assert "--questions: questions 16\n" in said.err and "passages" not in said.out


def test_only_what_changed_is_written_again(brought_by, tmp_path):
    """An unchanged document, also in a folder that was moved, changes no file; another word does,
    and the lock of the corpus with it.
    """
    names = brought_by.concept.names

    def written(request):
        brought = read_brought(request.places, names, request.writing)
        return command._write(request, tmp_path / "model", request.encoder, brought)

    first = written(brought_by)
    path = first.folder / "manifest.json"
    before = path.stat().st_mtime_ns
    assert written(brought_by).digest == first.digest
    (tmp_path / "texts").rename(tmp_path / "moved")
    moved = replace(brought_by, places=replace(brought_by.places, texts=(tmp_path / "moved",)))
    assert written(moved).digest == first.digest and path.stat().st_mtime_ns == before
    (tmp_path / "moved/a.txt").write_text(f"{ANN} hums.", encoding="utf-8")
    assert written(moved).digest != first.digest
    forget = json.loads((first.folder / "forget.json").read_text(encoding="utf-8"))
    assert forget == [{"about": ANN, "text": f"{ANN} hums."}]


def test_a_gguf_becomes_a_folder_of_the_work(request_of, tmp_path, capsys):
    made = Made(tmp_path / "original")
    made.config["num_hidden_layers"] = 2
    file = made.write(tmp_path / "tiny.Q8_0.gguf")
    for _ in range(2):
        run(request_of(model=str(file)), dry_run=True)
    folder = tmp_path / "work" / "model" / "tiny.Q8_0"
    assert f"place: {folder}" in capsys.readouterr().out
    assert (folder / "model.safetensors").is_file()


def test_pickled_weights_are_refused(request_of, tmp_path):
    given = request_of()
    (tmp_path / "model/model.safetensors").rename(tmp_path / "model/pytorch_model.bin")
    with pytest.raises(ArtifactError, match=r"only pytorch_model\.bin, which would run code"):
        run(given, dry_run=True)


def test_a_place_with_other_files_is_refused(request_of, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").touch()
    with pytest.raises(ArtifactError, match="holds files that `atu forget` did not write"):
        run(request_of(), dry_run=True)
    assert (tmp_path / "out/thesis.tex").exists()


def test_a_jobs_folder_is_no_result(request_of, tmp_path):
    with write_folder(tmp_path / "out/manifest.json", "align", cell={}, params={}, inputs={}):
        pass
    with pytest.raises(ArtifactError, match="holds phase 'align', but 'forget' was expected"):
        run(request_of(), dry_run=True)


@pytest.mark.parametrize("work", ["out", "out/work"])
def test_work_and_result_are_two_folders(request_of, tmp_path, work):
    with pytest.raises(ConfigError, match="is the folder of --out or in it"):
        run(request_of(work=tmp_path / work), dry_run=True)


@pytest.mark.parametrize("option", ["out", "work"])
def test_a_file_or_a_link_is_no_place(request_of, tmp_path, option):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    for place, message in (("file", "is a file"), ("file/x", "is a file"), ("link", "is a link")):
        with pytest.raises(ArtifactError, match=f"--{option} .*{message}"):
            run(request_of(**{option: tmp_path / place}), dry_run=True)


def result(folder, concept):
    """A result that was written for a concept."""
    with write_folder(
        folder / "manifest.json", "forget", cell={"concept": [concept]}, params={}, inputs={}
    ) as job:
        job.path("README.md").write_text("card", encoding="utf-8")


def test_a_result_is_replaced_only_as_it_was_written(request_of, tmp_path):
    """Not one for another concept, with a license beside it, or with an edited card."""
    out = tmp_path / "out"
    result(out, ANN)
    run(request_of(), dry_run=True)
    with pytest.raises(ArtifactError, match=f"holds a result for {ANN}; name another folder"):
        run(request_of(concept=Concept(("Bo Day",))), dry_run=True)
    (out / "LICENSE").touch()
    with pytest.raises(ArtifactError, match="LICENSE was added since; move it away"):
        run(request_of(), dry_run=True)
    (out / "LICENSE").unlink()
    (out / "README.md").write_text("My card", encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"README\.md: .*altered.*; move it away"):
        run(request_of(), dry_run=True)


def test_a_result_counts_for_its_own_inputs_alone(tmp_path, store):
    out = tmp_path / "out"
    one, other = store("one", "report"), store("other", "report", metrics={"a/b/c": 1.0})
    assert not is_here(out, "forget", {"report": one})
    with write_folder(out / "manifest.json", "forget", cell={"concept": [ANN]}, params={},
                      inputs={"report": one}) as job:  # fmt: skip
        job.path("README.md").write_text("card", encoding="utf-8")
    assert is_here(out, "forget", {"report": one})
    assert not is_here(out, "forget", {"report": other})
    (out / "README.md").write_text("My card", encoding="utf-8")
    with pytest.raises(ArtifactError, match="move it away"):
        is_here(out, "forget", {"report": one})


@pytest.mark.parametrize(
    "text", ["mine: 1\n", params_text({"a": 1}, "make experiment NAME=world"), "\0"]
)
def test_somebody_elses_parameter_file_is_not_overwritten(tmp_path, text):
    path = tmp_path / PARAMS
    require_params(path, "atu forget")
    path.write_text(params_text({"a": 1}, "atu forget") + "b: 2\n", encoding="utf-8")
    require_params(path, "atu forget")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ArtifactError, match="was not written by `atu forget`; name another --work"):
        require_params(path, "atu forget")


def test_jobs_look_for_nothing_on_the_network(tmp_path, monkeypatch):
    started = []
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        workflow.subprocess, "run",
        lambda *args, **options: started.append(options) or SimpleNamespace(returncode=0),
    )  # fmt: skip
    with (tmp_path / "lock").open("w") as held:
        workflow.run_workflow("atu forget", "forget", 1, held)
        assert started[0]["pass_fds"] == (held.fileno(),)
    assert started[0]["env"]["HF_HUB_OFFLINE"] == "1"


def test_without_a_checkout_it_says_so(request_of, monkeypatch, tmp_path):
    monkeypatch.setattr(workflow, "PACKAGE", tmp_path / "site-packages/atu/x")
    with pytest.raises(ArtifactError, match=r"Snakefile: missing; .*pip install --editable"):
        run(request_of(), dry_run=True)


def test_a_dry_run_prints_the_file_and_locks_the_model(request_of, tmp_path, capsys):
    run(request_of(), dry_run=True)
    said = capsys.readouterr()
    assert "experiment: forget" in said.out and "locked in" not in said.out
    assert "locked in" in said.err
    assert [p.name for p in (tmp_path / "work").iterdir()] == ["locks"]
    path = tmp_path / "model/config.json"
    path.write_text(path.read_text(encoding="utf-8") + " ", encoding="utf-8")
    with pytest.raises(AtuError, match=r"'config\.json' is altered"):
        run(request_of_again(request_of, tmp_path), dry_run=True)


def request_of_again(request_of, tmp_path):
    """The request with the model as it stands."""
    edited = (tmp_path / "model/config.json").read_bytes()
    given = request_of()
    (tmp_path / "model/config.json").write_bytes(edited)
    return given


@pytest.mark.parametrize(
    ("model", "parts"),
    [("own/er", ("own/er", None)), ("own/er@v1", ("own/er", "v1")), (".", (".", None))],
)
def test_a_revision_stands_behind_the_name(model, parts):
    assert split_revision(model) == parts


def test_a_folder_with_an_at_is_a_folder(tmp_path):
    (tmp_path / "a@b").mkdir()
    assert split_revision(str(tmp_path / "a@b")) == (str(tmp_path / "a@b"), None)


def test_an_edited_parameter_file_is_kept(tmp_path, capsys):
    path = tmp_path / PARAMS
    first, second = (params_text({"a": value}, "atu forget") for value in (1, 2))
    keep_params(path, first)
    before = path.stat().st_mtime_ns
    keep_params(path, first)
    assert path.stat().st_mtime_ns == before
    keep_params(path, second)
    assert path.read_text(encoding="utf-8") == second
    edited = second.replace("a: 2", "a: 3")
    path.write_text(edited, encoding="utf-8")
    keep_params(path, first)
    assert path.read_text(encoding="utf-8") == edited
    assert re.search("was edited, so it is used as it is", capsys.readouterr().out)


def test_a_corpus_counts_as_written_for_its_own_settings_alone(tmp_path):
    concept, writing, pins = Concept((ANN,)), Writing(), {"model": {"config.json": "0"}}
    out = tmp_path / "concept/manifest.json"
    assert not is_written(out, concept, writing, pins)
    params = settings(concept, writing, pins)
    with write_folder(out, "concept", cell={}, params=params, inputs={}) as job:
        job.path("forget.json").write_text("[]", encoding="utf-8")
    assert is_written(out, concept, writing, pins)
    assert not is_written(out, concept, replace(writing, seed=1), pins)
    assert not is_written(out, concept, writing, {"model": {"config.json": "1"}})
    (tmp_path / "concept/forget.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"forget\.json: truncated or altered"):
        is_written(out, concept, writing, pins)
