"""The pages that open MLflow's UI; tests/processes starts it, tests/workflow looks at it."""

import shutil

import pytest
from mlflow import MlflowClient

from atu.errors import TrackingError
from atu.tracking import ui

SERVER = "http://bob:hunter2@127.0.0.1:1"


@pytest.fixture
def store(tmp_path, monkeypatch, new_database):
    """A store with one experiment."""
    shutil.copy(new_database, tmp_path / "store.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/store.db")
    MlflowClient().create_experiment("world", str(tmp_path))


def test_a_page_goes_on_to_its_view_with_the_assistant_closed(store):
    """And says so if the experiment is not there yet, without a word of HTML."""
    page = ui._view("world", "charts", None)
    text = page.body.decode()
    assert 'location.replace("/#/experiments/1/runs?' in text and "compareRunsMode=CHART" in text
    assert '"mlflow.assistant.panelOpen_v1", "false"' in text
    missing = ui._view("<b>", "charts", None)
    assert missing.status_code == 404 and missing.media_type == "text/plain"


def test_the_reports_page_reaches_nothing_of_mlflow(tmp_path):
    """It is served as it is, in a sandbox; before the first report it is said how to make one."""
    missing = ui._report(tmp_path / "report.html", None)
    assert missing.status_code == 404 and b"run `snakemake report`" in missing.body
    (tmp_path / "report.html").write_text("<p>x</p>")
    page = ui._report(tmp_path / "report.html", None)
    assert page.media_type == "text/html" and page.path == tmp_path / "report.html"
    policy = page.headers["content-security-policy"].split("; ")
    assert "default-src 'none'" in policy and "sandbox allow-scripts" in policy


def test_a_server_is_told_by_its_own_addresses(tmp_path, monkeypatch, capsys):
    """Nothing is served here, and no password is shown."""
    opened = []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SERVER)
    monkeypatch.setattr(ui, "_number", {"world": "3"}.get)
    monkeypatch.setattr(ui.webbrowser, "open", opened.append)
    ui.serve("world", tmp_path, "127.0.0.1", 5000, opened=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["runs", "charts", "answers"]
    assert "hunter2" not in "".join(lines) and lines[0].endswith(opened[0])
    assert opened[0].startswith("http://127.0.0.1:1/#/experiments/3/runs?")
    with pytest.raises(TrackingError, match="no experiment 'moon'"):
        ui.serve("moon", tmp_path, "127.0.0.1", 5000, opened=False)
