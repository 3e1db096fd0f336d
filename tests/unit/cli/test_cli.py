"""The command line: quick help, and errors as one message with exit code 2."""

import errno
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from atu.cli import main
from atu.errors import HIDDEN

ROOT = Path(__file__).parents[3]
HEAVY = ("torch", "transformers", "polars", "mlflow", "lm_eval", "pydantic", "datasets")


@pytest.fixture
def atu(monkeypatch, capsys):
    """A function that runs the command line in this process: its exit code and what it printed."""
    deterministic, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()

    def run(*args):
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "argv", ["atu", *args])
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        return SimpleNamespace(
            returncode=stopped.value.code, stdout=printed.out, stderr=printed.err
        )

    yield run
    torch.use_deterministic_algorithms(deterministic)
    torch.set_num_threads(threads)


def test_help_imports_nothing_heavy():
    """`atu --help` must answer at once; what it imports is what it costs."""
    code = (
        "import sys; sys.argv = ['atu', '--help']\n"
        "from atu.cli import app\n"
        "try: app()\n"
        "except SystemExit: pass\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "unlearn" in done.stdout


def test_the_module_runs_and_fails_as_a_command():
    """The same in a process of its own: `python -m atu`."""
    done = subprocess.run(
        [sys.executable, "-m", "atu", "check", "--params", "nowhere.yaml"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("atu: file = 'nowhere.yaml': ")
    assert done.stderr.count("\n") == 1


def test_a_job_of_snakemake_reads_checked_parameters_without_transformers():
    """A cluster job starts Snakemake twice; importing transformers is half of such a start."""
    code = (
        "import sys; from pathlib import Path; from atu.config.load import load_params\n"
        "load_params(Path('params.yaml'), across=False); print('transformers' in sys.modules)\n"
        "load_params(Path('params.yaml')); print('transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["False", "True"]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "out of memory: MemoryError\ngive the job more"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "out of memory: CUDA out of memory."),
        (OSError(errno.ENOSPC, "No space left on device"), "disk full: [Errno 28] No space left"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk full: [Errno 122] Disk quota"),
    ],
)
def test_a_machine_at_its_limit_is_one_message(monkeypatch, atu, error, says):
    def fail(_path):
        raise error

    monkeypatch.setattr("atu.config.load.load_params", fail)
    done = atu("check")
    assert done.returncode == 2
    assert done.stderr.startswith(f"atu: {says}")


@pytest.mark.parametrize("error", [ValueError("other"), OSError(errno.EIO, "I/O error")])
def test_any_other_error_keeps_its_traceback(monkeypatch, error):
    """It is a defect of ours, and a message alone would hide where."""

    def fail(_path):
        raise error

    monkeypatch.setattr("atu.config.load.load_params", fail)
    monkeypatch.setattr(sys, "argv", ["atu", "check"])
    with pytest.raises(type(error), match=str(error.args[-1])):
        main()


def test_check_says_what_would_run(atu):
    done = atu("check")
    assert done.returncode == 0
    assert "6 cells" in done.stdout


def test_an_experiment_becomes_the_parameter_file(atu, tmp_path):
    """Whole: an overlay says nothing of the report."""
    path = tmp_path / "params.yaml"
    done = atu("experiment", "comparison", "--params", str(path))
    assert done.stdout == f"{path}: written from experiments/comparison.yaml\n"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert (values["experiment"], values["report"]["compare"]) == ("comparison", "atu")
    assert atu("check", "--params", str(path)).returncode == 0


def test_memory_lists_the_grid(atu):
    """Two lines for phases that train the model or the predictor, one per method, three
    evaluations, seven attacks, and the head."""
    done = atu("memory", "--results", "nowhere")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1 + 2 + 6 + 3 + 7
    assert "llama_tiny  unlearn atu" in done.stdout


def test_speed_is_of_a_model_of_the_file(atu):
    done = atu("speed", "--model", "other")
    assert done.returncode == 2
    assert "--model = 'other': pretrain.models has ['llama_tiny']" in done.stderr


def test_speed_needs_what_the_file_asks_for(atu, tmp_path):
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    values["compute"]["device"] = "cuda"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = atu("speed", "--params", str(tmp_path / "params.yaml"))
    assert done.returncode == 2
    assert "compute.device = 'cuda': torch sees no CUDA device here" in done.stderr


def test_speed_is_of_the_kernels_that_phases_use(atu, monkeypatch):
    """On a GPU the deterministic ones, which may be slower."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("atu.resources.measuring.measured", lambda *_: [])
    assert atu("speed").returncode == 0
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_a_job_that_cannot_fit_is_refused_before_it_starts(monkeypatch, atu, store):
    """One message and exit code 2, and no folder."""
    monkeypatch.setattr("atu.resources.fit.free_bytes", lambda _device: 10**6)
    shared = str(store("shared", "prepare").folder / "manifest.json")
    done = atu("pretrain", "--model", "llama_tiny", "--shared", shared, "--out", "o/manifest.json")
    assert done.returncode == 2
    assert "atu: pretrain: " in done.stderr and "1.0 MB free" in done.stderr
    assert not (ROOT / "o").exists()


def test_the_schema_is_the_stored_one(atu):
    done = atu("schema")
    stored = (ROOT / "workflow/schemas/params.schema.json").read_text(encoding="utf-8")
    assert (done.returncode, done.stdout) == (0, stored)


def test_an_unknown_attack_names_those_that_there_are(atu):
    done = atu(
        "attack", "--attack", "x", "--unlearn", "m", "--prepare", "m", "--out", "o/manifest.json"
    )
    assert "sampling, relearn, quantise, context, lens, depth, fresh_predictor" in done.stderr


@pytest.mark.parametrize("name", ["lens", "context"])
def test_attacks_are_given_their_folders_and_their_cell(monkeypatch, atu, store, make_params, name):
    """The command hands over what it was told, in its place; what only some attacks need may be
    left out."""
    from atu.phases import attack

    calls = []
    monkeypatch.setattr(attack, "run", lambda *given: calls.append(given))
    folders = {
        option: str(store(option.strip("-"), phase).folder / "manifest.json")
        for option, phase in (
            ("--unlearn", "unlearn"), ("--prepare", "prepare"), ("--embed", "embed"),
            ("--align", "align"), ("--original", "pretrain"), ("--oracle", "pretrain"),
        )
    }  # fmt: skip
    given = [word for pair in folders.items() for word in pair]
    for words, present in ((given, True), (given[:4], False)):
        assert atu("attack", "--attack", name, *words, "--out", "o/manifest.json").returncode == 0
        out, section, _, found, *inputs = calls.pop()
        assert (str(out), found, name in section.attacks) == ("o/manifest.json", name, True)
        named = [None if artifact is None else artifact.folder.name for artifact in inputs]
        optional = ["embed", "align", "original", "oracle"]
        assert named == ["unlearn", "prepare", *(optional if present else [None] * 4)]


def test_report_is_given_every_cell_and_attack(monkeypatch, atu, tmp_path, store):
    """Of 3 methods, 2 attacks each, one alignment that they share."""
    from atu.config.cells import CELL_PHASES, attack_manifest, grid_cells, manifest_path
    from atu.config.load import load_params
    from atu.phases import report

    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    values["grid"] |= {"methods": ["none", "oracle", "atu"], "attacks": ["lens", "context"]}
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    params = load_params(file)
    for cell in grid_cells(params):
        own = {"method": cell.method}
        store(manifest_path(Path(), "align", cell).parent, "align", {"method": None})
        for phase in CELL_PHASES:
            store(manifest_path(Path(), phase, cell).parent, phase, own)
        for name in params.grid.attacks:
            folder = attack_manifest(Path(), cell, name).parent
            store(folder, "attack", own | {"attack": name})
    for variant in ("full", "oracle-Wysturel_Brontanthorpe"):
        store(f"pretrain/llama_tiny/{variant}", "pretrain")
    searched = store("search/shared", "search", {"model": None})
    calls = []
    monkeypatch.setattr(report, "run", lambda *given: calls.append(given))
    done = atu(
        "report", "--params", str(file), "--results", str(tmp_path), "--out", "r/manifest.json"
    )
    assert done.returncode == 0, done.stderr
    ((_, given, inputs),) = calls
    assert given == params
    for phase in CELL_PHASES:
        assert [a.cell["method"] for a in getattr(inputs, phase)] == params.grid.methods
    assert [(a.cell["method"], a.cell["attack"]) for a in inputs.attack] == [
        (method, attack) for method in params.grid.methods for attack in params.grid.attacks
    ]
    assert (len(inputs.align), len(inputs.pretrain)) == (1, 2)
    assert [a.digest for a in inputs.search] == [searched.digest]


def test_cost_is_a_table_of_every_method(atu, tmp_path, store):
    """Means over the single target's two seeds: NPO took 4 and 8 steps in 2 and 5 seconds; what two
    names at once took is not among them. GA was searched: 3 trials and 2 finals, 60 seconds."""
    from atu.config.cells import grid_cells, manifest_path
    from atu.config.load import load_params
    from atu.results.artifacts import PROVENANCE

    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    name, other = "Wysturel Brontanthorpe", "Epheron Wendosk"
    values["grid"] |= {
        "targets": [name], "together": [[name, other]], "sequences": [], "seeds": [0, 1],
        "methods": ["none", "oracle", "npo", "ga"],
    }  # fmt: skip
    values["report"]["compare"] = "npo"
    rate = values["unlearn"]["methods"]["ga"]["learning_rate"]
    span = {"low": rate / 10, "high": rate * 10, "log": True}
    values["search"]["spaces"] = {"ga": {"learning_rate": span}}
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")

    def finish(folder, phase, cell, steps, took, **more):
        costs = {"model_steps": steps, "predictor_steps": 0, "tokens": 10 * steps} | more
        metrics = {f"{phase}/{key}/all": value for key, value in costs.items()}
        made = {
            "chosen.json": '{"trial": 1, "values": {}}',
            "trials.jsonl": '{"score": 0.5, "finals": []}\n',
        }
        files = {name: partial(Path.write_text, data=text) for name, text in made.items()}
        given = {"files": files, "params": {"trials": 3}} if phase == "search" else {}
        path = store(folder, phase, cell, metrics=metrics, **given).folder / PROVENANCE
        record = json.loads(path.read_text(encoding="utf-8")) | {"seconds": took}
        path.write_text(json.dumps(record), encoding="utf-8")

    for cell in grid_cells(load_params(file)):
        steps, took = (4, 2) if cell.seed == 0 else (8, 5)
        if cell.target != name:
            steps, took = 1000, 1000
        own = {"model": cell.model, "method": cell.method, "seed": cell.seed}
        finish(manifest_path(Path(), "unlearn", cell).parent, "unlearn", own, steps, took)
    own = {"model": "llama_tiny", "method": "ga"}
    finish("search/llama_tiny/ga", "search", own, 20, 60, trials=3, finals=2)
    done = atu("cost", "--params", str(file), "--results", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[2:] == [
        "| `none` | 2 | 6 | 0 | 60 | 4 | 0 | 0 | 0 |",
        "| `oracle` | 2 | 6 | 0 | 60 | 4 | 0 | 0 | 0 |",
        "| `npo` | 2 | 6 | 0 | 60 | 4 | 0 | 0 | 0 |",
        "| `ga` | 2 | 6 | 0 | 60 | 4 | 5 | 200 | 60 |",
    ]


def test_the_meta_evaluation_reads_the_cells_and_writes_a_table(atu, tmp_path, store):
    """The original answers all, the oracle nothing, for four targets; what else was measured of
    others is not in it. A grid without them is told what is needed."""
    from atu.config.cells import CELL_PHASES, grid_cells, manifest_path
    from atu.config.load import load_params
    from atu.metrics.trust import read

    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    people = ["Wysturel Brontanthorpe", "Epheron Wendosk", "Quorume Yarleldorn", "Xanaxa Oxbistle"]
    values["grid"] |= {"targets": people, "methods": ["none", "oracle", "atu"], "attacks": []}
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    key = "rephrase/target.question.exact_match@own-2"
    for cell in grid_cells(load_params(file)):
        own = {k: getattr(cell, k) for k in ("model", "target", "method", "seed")}
        store(manifest_path(Path(), "align", cell).parent, "align", own)
        for phase in CELL_PHASES:
            found = {f"{key}/report": float(cell.method == "none")} if phase == "rephrase" else {}
            store(manifest_path(Path(), phase, cell).parent, phase, own, metrics=found)
    plain = ("meta", "--results", str(tmp_path))
    done = atu(*plain, "--params", str(file), "--out", str(tmp_path / "trust.csv"))
    assert done.returncode == 0, done.stderr
    (row,) = read(tmp_path / "trust.csv")
    assert (row.key, row.knowing, row.ignorant, row.faithfulness) == (key, 4, 4, 1.0)
    assert done.stdout.splitlines()[2].startswith(f"| `{key}` | 4 | 4 | 1.00 [1.00, 1.00] |")
    done = atu(*plain)
    assert done.returncode == 2
    assert (
        "grid = ['none', 'oracle', 'atu', 'name_change', 'simnpo', 'npo_retain']: the meta-eval"
        in done.stderr
    )


def test_search_is_given_its_folders(monkeypatch, atu, tmp_path, store):
    """With a method its model and each target's probes, the predictor's folders where they are
    named; without one, all finished searches."""
    from atu.phases import search

    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    rate = values["unlearn"]["methods"]["ga"]["learning_rate"]
    span = {"low": rate / 10, "high": rate * 10, "log": True}
    values["search"] |= {
        "targets": ["Wysturel Brontanthorpe", "Epheron Wendosk"],
        "spaces": {"ga": {"learning_rate": span}},
    }
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    plain = ("search", "--params", str(file), "--out", "o/manifest.json")
    calls = []
    monkeypatch.setattr(search, "run", lambda *given: calls.append(given))
    monkeypatch.setattr(search, "run_shared", lambda *given: calls.append(given))
    model = store("pretrain", "pretrain")
    made = {
        phase: [store(f"{phase}/{target}", phase, {"target": target}) for target in "ab"]
        for phase in ("prepare", "embed", "align")
    }

    def options(*phases):
        found = [(name, artifact) for name in phases for artifact in made[name]]
        named = [("pretrain", model), *found]
        return [w for n, a in named for w in (f"--{n}", str(a.folder / "manifest.json"))]

    for phases in ((*made,), ("prepare",)):
        assert atu(*plain, "--method", "ga", *options(*phases)).returncode == 0
        out, section, compute, unlearn, method, inputs = calls.pop()
        assert compute.attention == values["compute"]["attention"]
        assert (str(out), section.spaces["ga"]["learning_rate"].low, method) == (
            "o/manifest.json", rate / 10, "ga",
        )  # fmt: skip
        assert "ga" in unlearn.methods
        for number, given in enumerate(inputs):
            expected = {phase: made[phase][number].digest for phase in phases}
            found = {name: artifact.digest for name, artifact in given.present().items()}
            assert found == {"pretrain": model.digest} | expected
        assert len(inputs) == 2
    for words, option in (
        (options("prepare")[:-2], "--prepare"), (options("prepare", "align"), "--embed"),
    ):  # fmt: skip
        done = atu(*plain, "--method", "ga", *words)
        assert done.returncode == 2
        assert f"{option} = " in done.stderr and "once for each of search.targets" in done.stderr
    values["search"]["relearn"] = values["attack"]["attacks"]["relearn"]
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    done = atu(*plain, "--method", "ga", *options("prepare"), "--processes", "2")
    assert done.returncode == 2
    assert "--processes = 2: search.relearn fine-tunes in one process" in done.stderr
    finished = [store(name, "search", {"method": name}) for name in ("ga", "npo")]
    words = [w for a in finished for w in ("--search", str(a.folder / "manifest.json"))]
    for given, count in ((words, 2), ([], 0)):
        assert atu(*plain, *given).returncode == 0
        _, _, found = calls.pop()
        assert [a.digest for a in found] == [a.digest for a in finished][:count]
    done = atu(*plain, "--method", "npo")
    assert done.returncode == 2 and "--method = 'npo': not in the parameter file" in done.stderr
    done = atu(*plain, "--method", "ga")
    assert done.returncode == 2 and "needs --pretrain" in done.stderr


@pytest.mark.parametrize(
    "args,says",
    [
        (["check", "--params", "nowhere.yaml"], "nowhere.yaml"),
        (["unlearn", "--method", "gaa", "--seed", "0", "--pretrain", "m/manifest.json",
          "--prepare", "m/manifest.json", "--out", "o/manifest.json"], "--method = 'gaa'"),
        (["pretrain", "--model", "llama_tiny", "--shared", "m/manifest.json",
          "--out", "o/manifest.json"], "m/manifest.json: missing"),
        (["attack", "--attack", "lense", "--unlearn", "m/manifest.json",
          "--prepare", "m/manifest.json", "--out", "o/manifest.json"], "--attack = 'lense'"),
        (["attack", "--attack", "lens", "--unlearn", "m/manifest.json",
          "--prepare", "m/manifest.json", "--out", "o/manifest.json"],
         "m/manifest.json: missing; run `snakemake unlearn` first"),
        (["privacy", "--unlearn", "m/manifest.json", "--prepare", "m/manifest.json",
          "--rephrase", "m/manifest.json", "--out", "o/manifest.json"],
         "m/manifest.json: missing; run `snakemake unlearn` first"),
        (["report", "--results", "nowhere", "--out", "o/manifest.json"],
         "manifest.json: missing; run `snakemake align` first"),
        (["track", "--results", "nowhere", "--out", "o/manifest.json"],
         "nowhere/report/manifest.json: missing; run `snakemake report` first"),
        (["prepare", "--target", "X", "--out", "o/manifest.json"], "--target and --shared"),
    ],
)  # fmt: skip
def test_errors_are_one_message(atu, args, says):
    done = atu(*args)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_message_cannot_command_the_terminal(atu):
    """Whatever a name of a file or a value holds."""
    done = atu("check", "--params", "no\x1b[2Jwhere\u202e\r.yaml")
    assert done.returncode == 2 and r"no\x1b[2Jwhere\u202e\r.yaml" in done.stderr
    assert not HIDDEN.search(done.stderr)


def test_results_that_cannot_be_written(atu, tmp_path):
    """A file stands where a folder is needed."""
    (tmp_path / "results").write_text("in the way", encoding="utf-8")
    done = atu("prepare", "--out", str(tmp_path / "results/prepare/shared/manifest.json"))
    assert done.returncode == 2
    assert "cannot be written" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_freed_memory_is_kept():
    """120 MB in three blocks, freed and taken 20 times, are 30,720 pages: got once."""
    code = (
        "import resource; from atu.cli.starting import keep_freed_memory; keep_freed_memory()\n"
        "for _ in range(20): blocks = [b'x' * (40 * 2**20) for _ in range(3)]; del blocks\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 4 * 30_720
