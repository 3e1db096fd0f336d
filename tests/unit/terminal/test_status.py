"""What is done of a grid, and why the rest is not."""

import os
import shutil
import socket
from collections import Counter
from dataclasses import replace

import pytest

from atu.config.sections import Search
from atu.results.artifacts import MANIFEST
from atu.results.writer import WRITER, only_writer
from atu.terminal.status import job_states, print_status

CELL = "llama_tiny/Ada/ga/0"


def states(grid):
    """Every job's state by its name."""
    return {job.job: job for job in job_states(grid.params, grid.results)}


def not_done(grid):
    """The jobs that are not done: state and whether only an earlier job is why."""
    return {n: (j.state, j.follows) for n, j in states(grid).items() if j.state != "done"}


def test_a_finished_grid_is_done(grid):
    """3 methods, 1 attack: 4 phases and the attack of each; 2 of prepare, pretrain and embed, 1 of
    align, search, report and track."""
    found = states(grid)
    assert Counter(job.phase for job in found.values()) == {
        "prepare": 2, "pretrain": 2, "embed": 2, "align": 1, "search": 1, "unlearn": 3,
        "rephrase": 3, "utility": 3, "privacy": 3, "attack": 3, "report": 1, "track": 1,
    }  # fmt: skip
    assert {(job.state, job.recorded) for job in found.values()} == {("done", True)}
    assert [*found][:2] == ["prepare/Ada", "prepare/shared"] and [*found][-1] == "track"


def test_nothing_has_run(tmp_path, change):
    jobs = job_states(change(), tmp_path / "results" / "x")
    assert {(job.state, job.reason) for job in jobs} == {("missing", "has not run")}


def test_a_changed_parameter_is_named_with_both_values(grid):
    """GA's rate: its own job is stale, and what reads it follows; the report read what follows."""
    unlearn = grid.params.unlearn
    methods = unlearn.methods | {"ga": replace(unlearn.methods["ga"], learning_rate=0.25)}
    changed = unlearn.model_copy(update={"methods": methods})
    grid.params = grid.params.model_copy(update={"unlearn": changed})
    found = states(grid)
    before = unlearn.methods["ga"].learning_rate
    assert found[f"unlearn/{CELL}"].reason == (f"unlearn.methods.ga.learning_rate: {before} → 0.25")
    assert found[f"rephrase/{CELL}"].reason == f"after unlearn/{CELL}"
    assert not_done(grid) == {
        f"unlearn/{CELL}": ("stale", False),
        **{f"{phase}/{CELL}": ("stale", True) for phase in ("rephrase", "utility", "privacy")},
        f"attack/{CELL}/lens": ("stale", True), "report": ("stale", True), "track": ("stale", True),
    }  # fmt: skip


def test_a_changed_source_is_named(grid):
    grid.source.write_text("x = 2\n", encoding="utf-8")
    reasons = {job.reason for job in states(grid).values()}
    assert reasons == {"changed since: src/atu/phases/some.py"}
    grid.source.unlink()
    assert {job.state for job in states(grid).values()} == {"stale"}


def test_a_touched_source_changes_nothing(grid):
    os.utime(grid.source)
    assert not_done(grid) == {}


def new_texts(grid):
    """Make the target's texts again, others this time."""
    shared = grid.open(grid.folder("prepare/shared"))
    grid.write("prepare/Ada", grid.params.section("prepare"), {"shared": shared}, {"new": True})


def test_an_input_that_was_made_again_is_named(grid):
    """The target's texts have changed: what read the old ones names them."""
    new_texts(grid)
    found = states(grid)
    assert found["rephrase/" + CELL].reason == "its input `prepare` (prepare/Ada) is another now"
    assert found["embed/shared"].reason == "made without prepare/Ada"
    assert found["pretrain/llama_tiny/full"].state == "done"


def test_without_a_record_the_input_is_named_without_its_place(grid):
    shutil.rmtree(grid.root / ".snakemake")
    new_texts(grid)
    assert states(grid)["align/llama_tiny/Ada/0"].reason == ("its input `prepare` is another now")


def test_without_a_record_nobody_knows_of_sources(grid):
    """Results that came with DVC; and a record of another version of the folder."""
    grid.source.write_text("x = 2\n", encoding="utf-8")
    shutil.rmtree(grid.root / ".snakemake")
    assert {(job.state, job.recorded) for job in states(grid).values()} == {("done", False)}
    grid.record(f"unlearn/{CELL}", {})
    assert not states(grid)[f"unlearn/{CELL}"].recorded


def test_a_method_more_makes_the_report_stale(grid, change):
    """Its own jobs are missing; nobody else's is stale."""
    grid.params = change(methods=["none", "oracle", "ga", "npo"])
    found, more = states(grid), "llama_tiny/Ada/npo/0"
    assert found["report"].reason == (f"made without unlearn/{more}, rephrase/{more} and 3 more")
    assert {j.job: j.state for j in found.values() if j.state != "done"} == {
        **{f"{phase}/{more}": "missing" for phase in ("unlearn", "rephrase", "utility", "privacy")},
        f"attack/{more}/lens": "missing", "report": "stale", "track": "stale",
    }  # fmt: skip


def test_a_method_less_makes_the_report_stale(grid, change):
    """Five jobs left: four phases and an attack."""
    grid.params = change(methods=["none", "oracle"])
    assert states(grid)["report"].reason == "made with 5 jobs that have left the grid"


def test_an_input_that_the_grid_takes_away_is_named(grid, change):
    """Without the original nothing is compared with it; without the oracle privacy has no
    reference."""
    grid.params = change(methods=["ga"])
    found = states(grid)
    assert found[f"utility/{CELL}"].reason == "no longer reads `before`"
    assert found[f"privacy/{CELL}"].reason == "no longer reads `reference`"


def test_a_search_is_an_input_of_its_method(grid):
    """Once GA is searched its job reads the search, and its own settings say nothing of it."""
    search, shared = grid.params.search, grid.open(grid.folder("search/shared"))
    space = {"learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}}
    changed = Search.model_validate(search.model_dump() | {"spaces": {"ga": space}})
    grid.params = grid.params.model_copy(update={"search": changed})
    assert states(grid)[f"unlearn/{CELL}"].reason == "reads `search`"
    params = grid.params.section("unlearn", "ga") | {"methods": {"ga": {"loss": "ga"}}}
    grid.write(f"unlearn/{CELL}", params, {"search": shared}, {"method": "ga"})
    assert states(grid)[f"unlearn/{CELL}"].reason == "after search/shared"


def test_a_running_job_says_who_and_how_far(grid):
    """Also where its folder stood; what reads it waits."""
    folder = grid.folder(f"unlearn/{CELL}")
    shutil.rmtree(folder)
    grid.log(f"unlearn/{CELL}", "memory: x\nunlearn: step 3/60\n")
    with only_writer(folder):
        found = states(grid)
    assert found[f"unlearn/{CELL}"].state == "running"
    assert found[f"unlearn/{CELL}"].reason == (
        f"process {os.getpid()} on {socket.gethostname()}: unlearn: step 3/60"
    )
    assert found[f"rephrase/{CELL}"].follows
    assert found[f"rephrase/{CELL}"].reason == f"after unlearn/{CELL}"


@pytest.mark.parametrize(
    ("host", "state"), [(socket.gethostname(), "failed"), ("elsewhere", "running")]
)
def test_a_killed_job_is_not_running(grid, host, state):
    """No process has the largest number; of another machine nobody can say."""
    folder = grid.folder(f"unlearn/{CELL}")
    shutil.rmtree(folder)
    grid.log(f"unlearn/{CELL}", "")
    folder.with_name(".0.lock").write_text(WRITER.format(2**31 - 1, host), encoding="utf-8")
    found = states(grid)[f"unlearn/{CELL}"]
    assert found.state == state
    assert ("killed before it said anything" in found.reason) == (state == "failed")


def test_a_failed_job_says_its_last_words(grid):
    """The message with which it ended, in one line, and the log's place; what it needs is there."""
    shutil.rmtree(grid.folder(f"utility/{CELL}"))
    grid.log(f"utility/{CELL}", "memory: 1 MB\natu: disk full: x\nfree some \x1b[31mspace\n")
    found = states(grid)[f"utility/{CELL}"]
    assert found.state == "failed"
    assert found.reason.startswith(f"{grid.root}/logs/x/utility/{CELL}.log: atu: disk full: x free")
    assert r"\x1b[31mspace" in found.reason and "\x1b" not in found.reason
    grid.folder(f"utility/{CELL}").with_name(".0.checkpoints").mkdir()
    assert states(grid)[f"utility/{CELL}"].reason.endswith("; goes on from its checkpoint")


def test_a_removed_folder_is_missing_and_not_failed(grid):
    shutil.rmtree(grid.folder("report"))
    found = states(grid)
    assert found["report"].state == "missing" and "ended well" in found["report"].reason
    assert found["track"].reason == "made without report"


def test_what_lost_a_file_is_damaged_and_nothing_follows(grid):
    """Weights that DVC leaves out: no job but this one is made again."""
    (grid.folder(f"unlearn/{CELL}") / "content.txt").unlink()
    (grid.folder("align/llama_tiny/Ada/0") / MANIFEST).write_text("{", encoding="utf-8")
    (grid.folder(f"rephrase/{CELL}") / "content.txt").write_text("longer than it was, by far")
    found = states(grid)
    assert found[f"unlearn/{CELL}"].state == "damaged"
    assert "`make weights` computes it again" in found[f"unlearn/{CELL}"].reason
    assert found["align/llama_tiny/Ada/0"].state == "damaged"
    assert "not a manifest" in found["align/llama_tiny/Ada/0"].reason
    assert "truncated or altered" in found[f"rephrase/{CELL}"].reason
    assert found[f"utility/{CELL}"].state == "done"


def test_a_job_whose_end_snakemake_did_not_see_is_stale(grid):
    mark = grid.records._file("incomplete", grid.folder(f"rephrase/{CELL}"))
    mark.parent.mkdir(parents=True)
    mark.write_text("{}", encoding="utf-8")
    assert "did not see it end" in states(grid)[f"rephrase/{CELL}"].reason


def shown(states, capsys, everything=False):
    print_status(states, everything)
    return capsys.readouterr().out


def test_counts_come_first_and_then_what_needs_attention(grid, capsys, monkeypatch):
    """Of a half-finished grid: one failed, what follows is counted, what is missing too."""
    monkeypatch.setenv("COLUMNS", "80")
    for name in (f"utility/{CELL}", "report", "track"):
        shutil.rmtree(grid.folder(name))
    grid.log(f"utility/{CELL}", "atu: out of memory\n")
    grid.source.write_text("x = 2\n", encoding="utf-8")
    grid.record("prepare/shared", {})
    jobs = [j for j in job_states(grid.params, grid.results) if j.phase in ("prepare", "utility")]
    lines = shown(jobs, capsys).splitlines()
    assert [line.split() for line in lines[:4]] == [
        ["phase", "done", "running", "stale", "failed", "missing"],
        ["prepare", "1", "1"], ["utility", "2", "1"], ["all", "1", "0", "3", "1", "0"],
    ]  # fmt: skip
    assert lines[4:6] == ["", "stale   prepare/Ada"]
    assert f"failed  utility/{CELL}" in lines
    assert max(map(len, lines)) <= 80 and "\x1b" not in "".join(lines)
    assert "done    prepare/shared" not in lines
    assert "done    prepare/shared" in shown(jobs, capsys, everything=True).splitlines()


def test_what_only_follows_is_counted(grid, capsys):
    """And listed on request: 25 jobs but the shared texts, the model, the table of searches, and
    the target's texts, which are stale themselves."""
    mark = grid.records._file("incomplete", grid.folder("prepare/Ada"))
    mark.parent.mkdir(parents=True)
    mark.touch()
    jobs = job_states(grid.params, grid.results)
    few, all_of_them = shown(jobs, capsys), shown(jobs, capsys, everything=True)
    assert "21 more are stale because an earlier job is made again" in few.replace("\n", " ")
    assert f"stale   rephrase/{CELL}" in all_of_them and f"rephrase/{CELL}" not in few
    assert "--all" not in all_of_them
