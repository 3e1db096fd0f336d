"""What the environment holds beside the project's own variables reaches no file and no message."""

import subprocess
import sys

import pytest
import yaml

CANARY = "s3cr3t-canary-7f1e"
SECRETS = {
    "HF_TOKEN": f"hf_{CANARY}",
    "AWS_ACCESS_KEY_ID": CANARY,
    "AWS_SECRET_ACCESS_KEY": CANARY,
    "MLFLOW_TRACKING_PASSWORD": CANARY,
    "MLFLOW_TRACKING_TOKEN": CANARY,
    "WANDB_API_KEY": CANARY,
    "ATU_PASSWORD": CANARY,
}


def holding(folder, text):
    """Files below a folder with this text in them."""
    return [p for p in folder.rglob("*") if p.is_file() and text.encode() in p.read_bytes()]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, mini_values):
    """A job that is run with secrets in its environment, and one that fails."""
    import os

    folder = tmp_path_factory.mktemp("job")
    (folder / "params.yaml").write_text(yaml.safe_dump(mini_values))
    variables = os.environ | SECRETS

    def atu(*arguments):
        command = [sys.executable, "-m", "atu", *arguments]
        return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)

    good = atu("prepare", "--out", "results/prepare/shared/manifest.json")
    bad = atu(
        "embed", "--pretrain", "y", "--prepare", "x/manifest.json", "--out", "z/manifest.json"
    )
    assert good.returncode == 0, good.stderr
    assert bad.returncode == 2
    return folder, good.stdout + good.stderr + bad.stdout + bad.stderr


def test_no_secret_is_written_or_printed(prepared):
    folder, printed = prepared
    assert (folder / "results/prepare/shared/provenance.json").is_file()
    assert holding(folder, CANARY) == []
    assert CANARY not in printed


def test_a_secret_that_is_written_would_be_found(prepared):
    """The command line is in the provenance, so the search does look there."""
    folder, printed = prepared
    assert [p.name for p in holding(folder, "prepare/shared/manifest.json")] == ["provenance.json"]
    assert "x/manifest.json" in printed
