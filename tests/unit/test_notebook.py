"""`import atu`, and docs/notebook.md on the miniature."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

import atu

PAGE = (Path(__file__).parents[2] / "docs" / "notebook.md").read_text(encoding="utf-8")
HEAVY = {"torch", "transformers", "polars", "pydantic", "numpy"}
TARGET = "Wysturel_Brontanthorpe"


def test_importing_it_imports_no_library():
    code = "import atu, sys; dir(atu); print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "atu" in done.stdout.split()
    assert HEAVY.isdisjoint(done.stdout.split())


def test_every_name_is_there_and_no_other():
    assert dir(atu) == sorted(atu.__all__)
    for name in atu.__all__:
        assert callable(getattr(atu, name)), name
    with pytest.raises(AttributeError, match="has no attribute 'forgot'"):
        _ = atu.forgot


def test_the_package_of_results_stays_one():
    """A job imports modules of `atu.results`, which binds the name anew."""
    from atu.results import artifacts

    assert atu.results.artifacts is artifacts
    with pytest.raises(atu.AtuError, match="holds no finished unlearn job"):
        atu.results("nowhere")


@pytest.fixture
def world(tmp_path, monkeypatch, mini_values, chain):
    """A working directory as `make run` leaves it, with the miniature in place of the world."""
    values = mini_values | {"experiment": "world"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    cell = f"llama_tiny/{TARGET}/atu/0"
    places = {
        "full": "pretrain/llama_tiny/full",
        "prepared": f"prepare/{TARGET}",
        **{name: f"{name}/{cell}" for name in ("unlearn", "rephrase", "utility", "privacy")},
        "attack": f"attack/{cell}/lens",
    }
    for name, place in places.items():
        shutil.copytree(getattr(chain, name).folder, tmp_path / "results" / "world" / place)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_runs(world, chain):
    """And what it says of its objects holds."""
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(block, "docs/notebook.md", "exec"), names)

    assert names["cells"].rows(named=True)[0].items() >= chain.unlearn.metrics().items()
    assert set(names["leaks"]["method"]) == {"atu"}
    done, edited = names["done"], names["edited"]
    same, theirs = (
        load_file(job.file("model/model.safetensors")) for job in (done.source, chain.unlearn)
    )
    assert all(same[key].equal(value) for key, value in theirs.items())
    assert done.metrics == chain.unlearn.metrics()
    before = load_file(chain.full.file("model/model.safetensors"))
    kept = names["original"].model.state_dict()
    assert all(kept[key].equal(value) for key, value in before.items())
    assert not all(same[key].equal(value) for key, value in before.items())
    assert edited.source is None and edited.trace.height == 4
