"""A tracking server that is not there costs the mirror and nothing else."""

from servers import free_port

SECRET = "hunter2"


def holding(folder, text):
    """Files below a folder that hold a text."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return [path for path in files if text.encode() in path.read_bytes()]


def test_a_dead_server_costs_the_mirror_alone(untouched):
    """A new experiment name makes `track` run; all else stands. The log says what to do, without
    the password; with the server away only track runs again."""
    before = untouched.results()
    untouched.edit(track__experiment="elsewhere")
    address = f"127.0.0.1:{free_port()}"
    done = untouched.run(
        "snakemake", "--cores", "2", check=False,
        MLFLOW_TRACKING_URI=f"http://bob:{SECRET}@{address}", MLFLOW_HTTP_REQUEST_MAX_RETRIES="0",
    )  # fmt: skip
    assert done.returncode != 0
    log = (untouched.folder / "logs/miniature/track/track.log").read_text(encoding="utf-8")
    assert f"MLflow at http://bob:***@{address}" in log
    assert "start the server, or unset MLFLOW_TRACKING_URI" in log and "Traceback" not in log
    assert SECRET not in done.stdout
    assert holding(untouched.folder, SECRET) == []
    after = untouched.results()
    assert {path for path in before if after.get(path) != before[path]} <= {"track/manifest.json"}
    assert untouched.planned() == {"track_one": 1}


def test_the_next_run_tracks_and_does_nothing_else(tree):
    tree.run("rm", "-r", "results/miniature/track", check=False)
    assert tree.planned() == {"track_one": 1}
    tree.snakemake()
    assert "nothing to be done" in tree.snakemake("--dry-run").stdout.lower()
