"""The parameter file: what is accepted, and what one message each bad value gets."""

import contextlib
import copy
import json
import math
from pathlib import Path

import pytest
import yaml

from atu import attacks
from atu.config.load import experiment_name, load_grid, load_params
from atu.config.params import PHASES, Params, method_names
from atu.config.schema import schema_text
from atu.errors import ConfigError
from atu.metrics.registry import markdown
from atu.untrusted.targets import target_slug

ROOT = Path(__file__).parents[3]
GOOD = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
GOOD["grid"]["methods"] = ["none", "oracle", "atu", "ga", "npo_retain"]


def write(tmp_path, **changes):
    """`params.yaml` with dotted keys set to other values; `None` removes the key."""
    values = copy.deepcopy(GOOD)
    for dotted, value in changes.items():
        *path, last = dotted.split("__")
        at = values
        for part in path:
            at = at[part]
        if value is None:
            del at[last]
        else:
            at[last] = value
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return file


def test_the_shipped_parameters_are_in_order():
    params = load_params(ROOT / "params.yaml")
    assert params.experiment == "world"
    retain = GOOD["unlearn"]["methods"]["atu"]["retain"]
    assert params.unlearn.methods["atu"].retain.nll == retain["nll"]
    assert params.attack.attacks["lens"].k == GOOD["attack"]["attacks"]["lens"]["k"]


NAME = "Wysturel Brontanthorpe"
SPAN = {"low": 1.0e-5, "high": 1.0e-3, "log": True}


ALL, THREE = {"update": "all"}, {"update": "layers", "layers": [0, 1, 2]}


def searching(common=None, **space):
    """GA with entries of its own that are searched in this space, and in what is common."""
    own = {
        "learning_rate": 1.0e-4, "batch_size": 16, "optimizer": "adamw", "weight_decay": 0.0,
        "train": ALL,
    }  # fmt: skip
    entry = {f"unlearn__methods__ga__{key}": value for key, value in own.items()}
    return entry | {"search__spaces": {"ga": space}, "search__common": common or {}}


LLAMA = "pretrain__models__llama_tiny__config"
BAD = {
    "a loss that is no text": (
        {"unlearn__methods__ga__loss": {}},
        "unlearn.methods.ga.loss",
        "known",
    ),
    "NaN in a model": (
        {f"{LLAMA}__rope_theta": math.nan},
        f"{LLAMA.replace('__', '.')}.rope_theta",
        "JSON",
    ),
    "infinity among choices": (
        searching(weight_decay={"choices": [0.0, math.inf]}),
        "search.spaces.ga.weight_decay.choices.1",
        "JSON",
    ),
    "code in a model": (
        {f"{LLAMA}__auto_map": {"AutoModel": "evil.M"}},
        f"{LLAMA.replace('__', '.')}",
        "auto_map names code to run",
    ),
    "a kernel in a model": (
        {f"{LLAMA}__attn_implementation": "evil/kernel"},
        f"{LLAMA.replace('__', '.')}",
        "a kernel to fetch",
    ),
    "labels without end": (
        {f"{LLAMA}__num_labels": 10**12},
        f"{LLAMA.replace('__', '.')}",
        "more than 1000",
    ),
    "layers that are no number": (
        {f"{LLAMA}__num_hidden_layers": "many"},
        f"{LLAMA.replace('__', '.')}",
        "model_type",
    ),
    "an encoder's name without end": (
        {"embed__encoder": "x" * 5000},
        "embed.encoder",
        "not a folder",
    ),
    "an experiment above": ({"experiment": "../x"}, "experiment", "pattern"),
    "an experiment with a line break": ({"experiment": "x\n"}, "experiment", "pattern"),
    "an experiment of another script": ({"experiment": "мир"}, "experiment", "pattern"),
    "a model's name above": ({"grid__models": ["../x"]}, "grid.models.0", "pattern"),
    "a method's name with a shell in it": (
        {"grid__methods": ["$(x)"]},
        "grid.methods.0",
        "pattern",
    ),
    "a target in two spellings": (
        {"grid__targets": ["Beyonc\u00e9", "Beyonce\u0301"]},
        "grid.targets",
        "twice",
    ),
    "targets that some file systems take for one": (
        {"grid__targets": ["Ann Lee", "ann lee"]},
        "grid.targets",
        "share a folder name",
    ),
    "more names together than a folder's name holds": (
        {"grid__together": [[f"{'x' * 30} {i}" for i in range(9)]]},
        "grid",
        "200 fit",
    ),
    "a task file in place of a task": (
        {"utility__benchmarks": {"b": {"kind": "hub", "path": "/tmp/evil.yaml"}}},
        "utility.benchmarks.b",
        "is no name of a task",
    ),
    "a task file in the working directory": (
        {"utility__benchmarks": {"b": {"kind": "hub", "path": "evil.yml"}}},
        "utility.benchmarks.b",
        "is no name of a task",
    ),
    "a benchmark that is a device": (
        {"utility__benchmarks": {"b": {"kind": "mmlu", "path": "/dev/zero"}}},
        "utility.benchmarks.b.path",
        "no such file",
    ),
    "a benchmark's name without end": (
        {"utility__benchmarks": {"b": {"kind": "mmlu", "path": "x" * 5000}}},
        "utility.benchmarks.b.path",
        "no such file",
    ),
    "unknown key": ({"align__hook_layr": 2}, "align.hook_layr", "hook_layers"),
    "unknown top key": ({"alin": 2}, "alin", "align"),
    "unknown method key": ({"unlearn__methods__ga__beta": 1.0}, "unlearn.methods.ga.beta", "steps"),
    "unknown retain key": (
        {"unlearn__methods__ga__retain__x": 1},
        "unlearn.methods.ga.retain.x",
        "unknown key",
    ),
    "missing key": ({"embed__k": None}, "embed.k", "add it"),
    "wrong type": ({"align__steps": "many"}, "align.steps", "integer"),
    "number as text": ({"align__learning_rate": "1e-4"}, "align.learning_rate", "number"),
    "threshold out of range": (
        {"unlearn__methods__atu__quantiles": [], "unlearn__methods__atu__thresholds": [1.5]},
        "unlearn.methods.atu.thresholds.0",
        "less than or equal to 1",
    ),
    "thresholds that rise": (
        {"unlearn__methods__atu__thresholds": [0.3, 0.5]},
        "unlearn.methods.atu",
        "fall strictly",
    ),
    "both ladders": (
        {"unlearn__methods__atu__quantiles": [0.5]},
        "unlearn.methods.atu",
        "either `quantiles` or `thresholds`",
    ),
    "hook layer beyond the model": (
        {"align__hook_layers": [1, 4], "grid__attacks": []},
        "align.hook_layers",
        "1 to 3",
    ),
    "a hook layer on the embeddings": ({"align__hook_layers": [0]}, "align.hook_layers.0", "1"),
    "no hook layer": ({"align__hook_layers": []}, "align.hook_layers", "at least 1"),
    "twice the same hook layer": ({"align__hook_layers": [2, 2]}, "align.hook_layers", "remove"),
    "a point of the trajectory that is none": ({"unlearn__keep": "first"}, "unlearn.keep", "best"),
    "a share to stop at above 1": (
        {"unlearn__methods__ga__stop_below": 1.5},
        "unlearn.methods.ga.stop_below",
        "less than or equal to 1",
    ),
    "unknown choice of parameters": (
        {"unlearn__methods__ga__train": {"update": "some"}},
        "unlearn.methods.ga.train",
        "needs the key `update`, one of all, below_hook, layers, mlp_output, lora",
    ),
    "an adapter of no rank": (
        {"unlearn__methods__ga__train": {"update": "lora", "rank": 0, "alpha": 1}},
        "unlearn.methods.ga.train.rank",
        "greater than or equal to 1",
    ),
    "an adapter without its size": (
        {"unlearn__methods__ga__train": {"update": "lora", "rank": 1}},
        "unlearn.methods.ga.train.alpha",
        "add it",
    ),
    "a size where there is no adapter": (
        {"unlearn__methods__ga__train": {"update": "all", "rank": 1}},
        "unlearn.methods.ga.train.rank",
        "unknown key",
    ),
    "no layer to update": (
        {"unlearn__methods__ga__train": {"update": "layers", "layers": []}},
        "unlearn.methods.ga.train",
        "list each layer to update once",
    ),
    "a layer to update twice": (
        {"unlearn__methods__ga__train": {"update": "layers", "layers": [1, 1]}},
        "unlearn.methods.ga.train",
        "list each layer to update once",
    ),
    "a layer to update beyond the model": (
        {"unlearn__methods__ga__train": {"update": "layers", "layers": [0, 4]}},
        "unlearn.methods.ga.train.layers",
        "below the 4 layers of model 'llama_tiny'; choose 0 to 3",
    ),
    "no hook layer to be below of": (
        {"unlearn__methods__ga__train": {"update": "below_hook"}},
        "unlearn.methods.ga.train.update",
        "only methods with a predictor",
    ),
    "disruption masking without a retain gradient": (
        {"unlearn__methods__ga__wrapper": "disruption_masking"},
        "unlearn.methods.ga",
        "give `retain` a weight",
    ),
    "adaptive thresholds that are given": (
        {
            "unlearn__methods__atu__quantiles": [],
            "unlearn__methods__atu__thresholds": [0.5],
            "unlearn__methods__atu__adaptive": True,
        },
        "unlearn.methods.atu",
        "adaptive thresholds are measured",
    ),
    "a width around every token": (
        {"unlearn__methods__atu__width": 1},
        "unlearn.methods.atu",
        "width = 1 is of no use",
    ),
    "heads that do not divide": ({"align__heads": 3}, "align.heads", "divide"),
    "unknown method": ({"unlearn__methods__ga__loss": "gaa"}, "unlearn.methods.ga.loss", "npo"),
    "method without loss": ({"unlearn__methods__ga": {}}, "unlearn.methods.ga", "key `loss`"),
    "method not in unlearn": ({"grid__methods": ["none", "gaa"]}, "grid.methods", "graddiff"),
    "grid without the original": ({"grid__methods": ["atu"]}, "grid.methods", "add `none`"),
    "target not in the world": ({"grid__targets": ["Nobody Else"]}, "grid.targets", "not in world"),
    "path separator": ({"grid__targets": ["../x"]}, "grid.targets", "path separator"),
    "reserved name": ({"grid__targets": ["shared"]}, "grid.targets", "reserved"),
    "two targets with one folder": (
        {"grid__targets": ["Epheron Wendosk", "Epheron_Wendosk"]},
        "grid.targets",
        "share a folder",
    ),
    "experiment that leaves results": ({"experiment": "../up"}, "experiment", "pattern"),
    "twice the same seed": ({"grid__seeds": [1, 1]}, "grid.seeds", "remove one"),
    "a window's least that is more than a window": (
        {"embed__partial": 9},
        "embed",
        "partial = 9 is more than k = 8",
    ),
    "partial windows in the reference": (
        {"embed__partial": 8, "embed__reference_compat": True},
        "embed",
        "reference_compat has windows of k alone",
    ),
    "missing encoder": ({"embed__encoder": "no/such"}, "embed.encoder", "all-MiniLM-L6-v2"),
    "bad model type": ({f"{LLAMA}__model_type": "lama"}, "pretrain.models.llama_tiny.config", ""),
    "too few people": ({"prepare__people": 6}, "prepare.people", "from 8 to"),
    "infinity in a section": ({"align__clip": math.inf}, "align.clip", "finite"),
    "infinity in a method": (
        {"unlearn__methods__ga__clip": math.inf},
        "unlearn.methods.ga.clip",
        "finite",
    ),
    "fewer steps than rounds": (
        {"unlearn__methods__atu__steps": 3},
        "unlearn.methods.atu",
        "4 rounds",
    ),
    "evaluations of a method with points of its own": (
        {"unlearn__methods__task_vector__evaluations": 4},
        "unlearn.methods.task_vector.evaluations",
        "unknown key",
    ),
    "a layer that nothing holds": (
        {"unlearn__methods__ga__retain__layer": 1},
        "unlearn.methods.ga.retain",
        "without weight `layer` is null",
    ),
    "states held at no layer": (
        {"unlearn__methods__graddiff__retain__states": 0.5},
        "unlearn.methods.graddiff.retain",
        "needs the layer",
    ),
    "odd number of people": ({"prepare__people": 47}, "prepare.people", "even number"),
    "unknown attack": (
        {"attack__attacks__lens": {"attack": "lense", "k": 4}},
        "attack.attacks.lens.attack",
        "known are context, depth, fresh_predictor, lens, quantise, relearn, sampling",
    ),
    "attack without its kind": (
        {"attack__attacks__lens": {"k": 4}},
        "attack.attacks.lens",
        "key `attack`",
    ),
    "unknown attack key": (
        {"attack__attacks__lens__layers": [1]},
        "attack.attacks.lens.layers",
        "unknown key; known here are attack, k",
    ),
    "missing attack key": (
        {"attack__attacks__relearn__folds": None},
        "attack.attacks.relearn.folds",
        "add it",
    ),
    "one fold": (
        {"attack__attacks__relearn__folds": 1},
        "attack.attacks.relearn.folds",
        "greater than or equal to 2",
    ),
    "looks that are rarer than the end": (
        {"attack__attacks__relearn__every": 301},
        "attack.attacks.relearn",
        "every 301 must be at most steps = 300",
    ),
    "a search that relearns by nothing": (
        {"search__relearn": {}},
        "search.relearn",
        "needs the key `attack`, one of relearn",
    ),
    "a budget above the samples": (
        {"attack__attacks__sampling__samples": 64, "attack__attacks__sampling__ks": [1, 65]},
        "attack.attacks.sampling",
        "ks [1, 65] must be from 1 to samples = 64",
    ),
    "no budget": ({"attack__attacks__sampling__ks": []}, "attack.attacks.sampling", "must be from"),
    "a budget of nothing": (
        {"attack__attacks__sampling__ks": [0, 1]},
        "attack.attacks.sampling.ks.0",
        "greater than or equal to 1",
    ),
    "unknown scheme": (
        {"attack__attacks__quantise__schemes": ["int8", "int5"]},
        "attack.attacks.quantise",
        "'int5' is no quantisation scheme: use int8",
    ),
    "a fresh predictor beyond the model": (
        {"attack__attacks__fresh_predictor__layers": [1, 4]},
        "attack.attacks.fresh_predictor.layers",
        "below the 4 layers of model 'llama_tiny'; choose 1 to 3",
    ),
    "a fresh predictor on the embeddings": (
        {"attack__attacks__fresh_predictor__layers": [0]},
        "attack.attacks.fresh_predictor.layers.0",
        "greater than or equal to 1",
    ),
    "infinity in an attack": (
        {"attack__attacks__relearn__clip": math.inf},
        "attack.attacks.relearn.clip",
        "finite",
    ),
    "attack not in attack": (
        {"grid__attacks": ["lens", "lense"]},
        "grid.attacks",
        "not in attack.attacks, which has context, depth, fresh_predictor, lens",
    ),
    "twice the same attack": ({"grid__attacks": ["lens", "lens"]}, "grid.attacks", "remove one"),
    "no list of attacks": ({"grid__attacks": None}, "grid.attacks", "add it"),
    "compared method not in the grid": (
        {"grid__methods": ["none", "oracle", "ga"]},
        "report.compare",
        "not in grid.methods, which has none, oracle, ga",
    ),
    "registered method not in the grid": (
        {"track__registered": ["ga", "gaa"]},
        "track.registered",
        "not in grid.methods, which has none, oracle, atu, ga",
    ),
    "grid without the oracle": (
        {"grid__methods": ["none", "atu", "ga"]},
        "grid.methods",
        "`loss: oracle`",
    ),
    "unknown kind of benchmark": (
        {"utility__benchmarks": {"arc": {"kind": "arc", "path": "arc.json"}}},
        "utility.benchmarks.arc.kind",
        "'triviaqa' or 'hub'",
    ),
    "benchmark of which the file is gone": (
        {"utility__benchmarks": {"mmlu": {"kind": "mmlu", "path": "gone.json"}}},
        "utility.benchmarks.mmlu.path",
        "no such file",
    ),
    "benchmark without a file": (
        {"utility__benchmarks": {"mmlu": {"kind": "mmlu"}}},
        "utility.benchmarks.mmlu.path",
        "add it",
    ),
    "benchmark with an empty file name": (
        {"utility__benchmarks": {"mmlu": {"kind": "mmlu", "path": ""}}},
        "utility.benchmarks.mmlu.path",
        "at least 1 character",
    ),
    "unknown key of a benchmark": (
        {"utility__benchmarks": {"mmlu": {"kind": "mmlu", "path": "x.json", "shots": 5}}},
        "utility.benchmarks.mmlu.shots",
        "known here are kind, path",
    ),
    "benchmark that is no mapping": (
        {"utility__benchmarks": {"mmlu": "x.json"}},
        "utility.benchmarks.mmlu",
        "dictionary",
    ),
    "benchmark with a name that is none": (
        {"utility__benchmarks": {"a/b": {"kind": "mmlu", "path": "x.json"}}},
        "utility.benchmarks.a/b",
        "pattern",
    ),
    "a share above 1": ({"privacy__min_k": 1.5}, "privacy.min_k", "less than or equal to 1"),
    "no holdout people": ({"prepare__holdout_people": 0}, "prepare.holdout_people", "greater"),
    "unknown benchmark": ({"prepare__benchmark": "tofoo"}, "prepare.benchmark", "world"),
    "one name at once": ({"grid__together": [[NAME]]}, "grid.together", "two or more different"),
    "no name in a sequence": ({"grid__sequences": [[]]}, "grid.sequences", "two or more different"),
    "one name in a sequence": (
        {"grid__sequences": [[NAME]]},
        "grid.sequences",
        f"['{NAME}'] must list two or more different names",
    ),
    "twice the same name at once": (
        {"grid__together": [[NAME, "Ada B", NAME]]},
        "grid.together",
        "two or more different",
    ),
    "twice the same folder in a sequence": (
        {"grid__sequences": [["Ada B", "Ada_B"]]},
        "grid.sequences",
        "two or more different",
    ),
    "a name at once that is not in the world": (
        {"grid__together": [[NAME, "Nobody Else"]]},
        "grid.together",
        "'Nobody Else': not in world, which has",
    ),
    "a name in a sequence that is not in the world": (
        {"grid__sequences": [["Nobody Else", NAME]]},
        "grid.sequences",
        "not in world",
    ),
    "a path at once": ({"grid__together": [[NAME, "../x"]]}, "grid.together", "path separator"),
    "a name that separates requests": (
        {"grid__targets": ["A.then.B"]},
        "grid.targets",
        "separates requests",
    ),
    "a model with the name of a folder": (
        {
            "pretrain__models__shared": GOOD["pretrain"]["models"]["llama_tiny"],
            "grid__models": ["shared"],
        },
        "grid.models",
        "'shared' is a reserved folder name",
    ),
    **{
        f"a method called {name!r}": (
            {"report__names": {"ga": name}},
            "report.names",
            "one line of",
        )
        for name in ("", " ", "a|b", "a\nb", "n" * 61)
    },
    "two methods of one name": (
        {"report__names": {"ga": "G", "npo": "G"}},
        "report.names",
        "lists an entry twice",
    ),
    "search on nobody": ({"search__targets": ["Nobody Else"]}, "search.targets", "not in world"),
    "search on one target twice": (
        {"search__targets": [GOOD["grid"]["targets"][0]] * 2},
        "search.targets",
        "lists an entry twice",
    ),
    "search without trials": ({"search__trials": 0}, "search.trials", "greater than or equal to 1"),
    "search of an unknown method": (
        {"search__spaces": {"gaa": {"learning_rate": SPAN}}},
        "search.spaces.gaa",
        "not in unlearn.methods, which has ",
    ),
    "search of an unknown key": (
        searching(learning_rat=SPAN),
        "search.spaces.ga.learning_rat",
        "the entry has no 'learning_rat', but ",
    ),
    "search of an unknown key within a key": (
        searching(**{"retain.weigth": SPAN}),
        "search.spaces.ga.retain.weigth",
        "the entry has no 'weigth', but nll, kl, states, layer",
    ),
    "search below a number": (
        searching(**{"learning_rate.x": SPAN}),
        "search.spaces.ga.learning_rate.x",
        "but no keys",
    ),
    "search above the entry's own value": (
        searching(learning_rate=SPAN | {"low": 2.0e-4}),
        "search.spaces.ga.learning_rate",
        "must hold the entry's own value 0.0001",
    ),
    "search below the entry's own value": (
        searching(learning_rate=SPAN | {"high": 0.9e-4}),
        "search.spaces.ga.learning_rate",
        "must hold the entry's own value 0.0001",
    ),
    "search among choices without the entry's own": (
        searching(batch_size={"choices": [8, 32]}),
        "search.spaces.ga.batch_size",
        "must hold the entry's own value 16",
    ),
    "search of a section and of what is in it": (
        searching(**{"retain.nll": SPAN, "retain": {"choices": [1, 2]}}),
        "search.spaces.ga.retain",
        "is searched with 'retain.nll' too; leave one of them",
    ),
    "search of layers that no model has": (
        searching(train={"choices": [ALL, {"update": "layers", "layers": [1, 4]}]}),
        "search.spaces.ga.train",
        "must be below the 4 layers of model 'llama_tiny'",
    ),
    "search below a hook that the method does not have": (
        searching(train={"choices": [ALL, {"update": "below_hook"}]}),
        "search.spaces.ga.train",
        "only methods with a predictor have a hook layer",
    ),
    "search of what no searched method has": (
        searching(common={"learning_rat": SPAN}),
        "search.common.learning_rat",
        "no entry of search.spaces has this key",
    ),
    "search in common of what a method cannot have": (
        searching(common={"learning_rate": {"low": 0.0, "high": 1.0, "log": False}}),
        "search.common.learning_rate",
        "greater than 0; give search.spaces.ga its own 'learning_rate', or null",
    ),
    "search in common without the entry's own value": (
        searching(common={"train": {"choices": [THREE, {"update": "layers", "layers": [0]}]}}),
        "search.common.train",
        "or set search.first: drawn; give search.spaces.ga its own 'train', or null",
    ),
    "search in a span of what is no number": (
        searching(optimizer=SPAN),
        "search.spaces.ga.optimizer",
        "'adamw'",
    ),
    "search from an end that the key cannot have": (
        searching(learning_rate={"low": 0.0, "high": 1.0, "log": False}),
        "search.spaces.ga.learning_rate",
        "greater than 0",
    ),
    "search among a choice that the key cannot have": (
        searching(optimizer={"choices": ["adamw", "adamx"]}),
        "search.spaces.ga.optimizer",
        "'adamw'",
    ),
    "search between equal ends": (
        searching(learning_rate={"low": 1.0e-4, "high": 1.0e-4, "log": True}),
        "search.spaces.ga.learning_rate",
        "must be below high",
    ),
    "search between ends in the wrong order": (
        searching(learning_rate={"low": 1.0e-3, "high": 1.0e-5, "log": False}),
        "search.spaces.ga.learning_rate",
        "must be below high",
    ),
    "search in the logarithm of nothing": (
        searching(weight_decay={"low": 0.0, "high": 1.0, "log": True}),
        "search.spaces.ga.weight_decay",
        "above 0 with `log`",
    ),
    "search in the logarithm of less than nothing": (
        searching(weight_decay={"low": -1.0, "high": 1.0, "log": True}),
        "search.spaces.ga.weight_decay",
        "above 0 with `log`",
    ),
    "search with an unknown key": (
        searching(learning_rate=SPAN | {"step": 1.0}),
        "search.spaces.ga.learning_rate.step",
        "known here are high, log, low",
    ),
    "search without an end": (
        searching(learning_rate={"low": 1.0e-5, "log": True}),
        "search.spaces.ga.learning_rate.high",
        "add it",
    ),
    "search among choices and more": (
        searching(optimizer={"choices": ["adamw", "sgd"], "log": True}),
        "search.spaces.ga.optimizer.log",
        "known here are choices",
    ),
    "search in what is no space": (
        searching(learning_rate=1.0e-4),
        "search.spaces.ga.learning_rate",
        "dictionary",
    ),
    "search among one choice": (
        searching(optimizer={"choices": ["adamw"]}),
        "search.spaces.ga.optimizer.choices",
        "at least 2 items",
    ),
}


@pytest.mark.parametrize("changes,key,repair", BAD.values(), ids=BAD)
def test_a_bad_value_is_one_message(tmp_path, changes, key, repair):
    """File, key, value and repair are all in the message."""
    file = write(tmp_path, **changes)
    with pytest.raises(ConfigError) as caught:
        load_params(file)
    message = str(caught.value)
    assert message.startswith(f"{file}: {key} = ")
    assert repair in message
    assert "\n" not in message


def test_nobody_can_try_all_of_a_range(tmp_path):
    file = write(tmp_path, **searching(learning_rate=SPAN))
    values = yaml.safe_load(file.read_text("utf-8"))
    values["search"] |= {"trials": None, "first": "drawn"}
    file.write_text(yaml.safe_dump(values), "utf-8")
    with pytest.raises(
        ConfigError, match=r"ga\.learning_rate = .*give `choices`, or search\.trials"
    ):
        load_params(file)


def test_lm_eval_would_run_a_task_files_code(tmp_path):
    """Why a hub task must be a name: this is what its path would do."""
    from lm_eval.tasks import TaskManager

    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef f(doc): ...\n")
    task = "task: x\ndataset_path: json\ndoc_to_text: !function evil.f\n"
    (tmp_path / "evil.yaml").write_text(task)
    with contextlib.suppress(Exception):
        TaskManager(include_defaults=False).load([str(tmp_path / "evil.yaml")])
    assert (tmp_path / "ran").exists()


def test_a_benchmark_file_whose_name_snakemake_would_fill_in(tmp_path):
    source = tmp_path / "{seed}.json"
    source.write_text("[]")
    given = {"b": {"kind": "mmlu", "path": str(source)}}
    with pytest.raises(ConfigError, match=r"utility\.benchmarks\.b\.path .*wildcards; rename"):
        load_params(write(tmp_path, utility__benchmarks=given))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"grid__attacks": [], "attack__attacks__fresh_predictor__layers": [9]}, "attacks"),
        ({"grid__attacks": []}, "attacks"),
        ({"utility__benchmarks": {"mmlu": {"kind": "mmlu", "path": __file__}}}, "benchmarks"),
        ({"utility__benchmarks": {"arc": {"kind": "hub", "path": "arc_easy"}}}, "benchmarks"),
        ({"report__compare": "ga"}, "compare"),
        ({"align__hook_layers": [3, 1]}, "layers"),
        ({"grid__together": [[NAME, "Epheron Wendosk"]]}, "together"),
        ({"grid__sequences": [[NAME, "Epheron Wendosk"], ["Epheron Wendosk", NAME]]}, "sequences"),
        (searching(learning_rate=SPAN, optimizer={"choices": ["adamw", "sgd"]}), "spaces"),
        (
            searching(**{"retain.nll": {"low": 0.5, "high": 2.0, "log": False}})
            | {"unlearn__methods__ga__retain__nll": 1.0},
            "spaces",
        ),
        (searching(learning_rate=SPAN | {"low": 1.0e-4}), "spaces"),
        (searching(learning_rate=SPAN | {"high": 1.0e-4}), "spaces"),
        (searching(train={"choices": [ALL, THREE]}), "sections"),
        (searching(common={"train": {"choices": [ALL, THREE]}, "steps": SPAN}, steps=None), "null"),
        (searching(learning_rate=SPAN | {"low": 2.0e-4}) | {"search__first": "drawn"}, "drawn"),
        ({"search__targets": ["Epheron Wendosk"]}, "targets"),
        ({"unlearn__methods__ga__train": {"update": "layers", "layers": [3, 0]}}, "layers"),
        ({"unlearn__methods__ga__train": {"update": "lora", "rank": 1, "alpha": 2}}, "lora"),
        ({"unlearn__methods__graddiff__wrapper": "disruption_masking"}, "wrapper"),
        ({"attack__attacks__sampling__samples": 64, "attack__attacks__sampling__ks": [64]}, "ks"),
    ],
)
def test_good_values_pass(tmp_path, changes, key):
    """Among them an attack that does not fit the model, as long as the grid does not list it."""
    assert load_params(write(tmp_path, **changes)).experiment == "world"


def test_never_stopping_is_written_as_null(tmp_path):
    """The key stays: what is left out is refused."""
    values = copy.deepcopy(GOOD)
    values["unlearn"]["methods"]["ga"]["stop_below"] = None
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    assert load_params(file).unlearn.methods["ga"].stop_below is None
    del values["unlearn"]["methods"]["ga"]["stop_below"]
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"unlearn\.methods\.ga\.stop_below = None: is req"):
        load_params(file)


def test_the_layers_of_an_attack_must_fit_every_model(tmp_path):
    """The second model of the grid has 3 layers only."""
    values = copy.deepcopy(GOOD["pretrain"]["models"]["llama_tiny"])
    values["config"]["num_hidden_layers"] = 3
    file = write(
        tmp_path, pretrain__models__small=values, grid__models=["llama_tiny", "small"],
        align__hook_layers=[2],
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"fresh_predictor.layers = \[3\]: .* model 'small'"):
        load_params(file)


def test_the_oracle_has_its_own_key(tmp_path):
    """By which reports read it."""
    methods = copy.deepcopy(GOOD["unlearn"]["methods"]) | {"retrained": {"loss": "oracle"}}
    file = write(tmp_path, unlearn__methods=methods, grid__methods=["none", "atu", "retrained"])
    with pytest.raises(ConfigError, match=r"grid.methods = 'retrained': is an oracle, .* `oracle`"):
        load_params(file)


@pytest.mark.parametrize("name", ["none", "oracle", "second_oracle"])
def test_no_method_stands_where_the_report_reads_none(tmp_path, name):
    methods = copy.deepcopy(GOOD["unlearn"]["methods"])
    methods |= {name: methods["ga"], "plain": {"loss": "none"}}
    grid = [*dict.fromkeys(["none", "oracle", name, "atu", "plain"])]
    file = write(tmp_path, unlearn__methods=methods, grid__methods=grid)
    with pytest.raises(ConfigError, match=f"unlearn.methods.{name}.loss = 'ga': the report reads"):
        load_params(file)


def test_phases_are_in_their_order():
    assert PHASES.index("rephrase") < PHASES.index("privacy") < PHASES.index("report")
    assert PHASES.index("align") < PHASES.index("attack") < PHASES.index("report")
    assert PHASES.index("align") < PHASES.index("search") < PHASES.index("unlearn")
    assert PHASES[-1] == "track" and len(set(PHASES)) == len(PHASES) == 12


def test_a_file_that_is_not_yaml_or_not_there(tmp_path):
    broken = tmp_path / "params.yaml"
    broken.write_text("a: [1", encoding="utf-8")
    for path in (broken, tmp_path / "none.yaml"):
        with pytest.raises(ConfigError, match=path.name):
            load_params(path)


@pytest.mark.parametrize(
    "name,slug",
    [
        ("Ada Example", "Ada_Example"),
        ("Prince Example, Duke of X", "Prince_Example__Duke_of_X"),
        ("Robert Example Jr.", "Robert_Example_Jr."),
        ("Zoë Example", "Zoë_Example"),
    ],
)
def test_slugs(name, slug):
    assert target_slug(name) == slug


def test_what_methods_are_called():
    """As `report.names` says; else by their loss, with what else their key says, or by their key.
    Names of methods that are not there name nothing."""
    values = copy.deepcopy(GOOD)
    values["report"]["names"] = {"npo_retain": "NPO + KL", "other": "Other"}
    names = method_names(Params.model_validate(values))
    assert (names["npo_retain"], names["npo_states"], names["ga"], names["graddiff"]) == (
        "NPO + KL", "NPO states", "Gradient ascent", "graddiff",
    )  # fmt: skip
    assert "other" not in names


@pytest.mark.parametrize("name", ["", " x", "a/b", "a\\b", "..", ".hidden", "a\nb", "Full"])
def test_names_that_could_leave_the_results_folder(name):
    with pytest.raises(ValueError, match=r"empty|separator|reserved"):
        target_slug(name)


def test_a_section_holds_only_its_own_model_or_method():
    """So that editing one method reruns that method alone."""
    params = load_params(ROOT / "params.yaml")
    assert list(params.section("unlearn", "ga")["methods"]) == ["ga"]
    assert list(params.section("pretrain", "llama_tiny")["models"]) == ["llama_tiny"]
    assert params.section("attack", "lens")["attacks"] == {
        "lens": GOOD["attack"]["attacks"]["lens"]
    }
    assert list(params.section("attack")["attacks"]) == [*GOOD["attack"]["attacks"]]
    assert "batch_size" in params.section("attack", "lens")
    assert params.section("align") == GOOD["align"] | {"compute": GOOD["compute"]}
    running = {phase for phase in PHASES if "compute" in params.section(phase)}
    assert set(PHASES) - running == {"prepare", "search", "report", "track"}
    spaces = params.search.model_copy(update={"spaces": {"ga": {}, "npo": {}}})
    found = params.model_copy(update={"search": spaces}).section("search", "ga")
    assert set(found) == {*GOOD["search"], "unlearn", "compute"}
    assert list(found["spaces"]) == list(found["unlearn"]["methods"]) == ["ga"]


def test_the_schema_file_is_the_generated_one():
    """Red when a model changed and `make schema` was forgotten."""
    stored = (ROOT / "workflow/schemas/params.schema.json").read_text(encoding="utf-8")
    assert stored == schema_text()


def test_the_list_of_metrics_is_the_generated_one():
    """Red when a metric changed and `make metrics` was forgotten."""
    stored = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    assert stored == markdown()


def test_the_schema_knows_bounds_methods_and_closed_sections():
    schema = json.loads(schema_text())
    assert schema["$defs"]["Align"]["additionalProperties"] is False
    (entries,) = schema["$defs"]["Unlearn"]["properties"]["methods"]["patternProperties"].values()
    assert set(entries["discriminator"]["mapping"]) >= {"atu", "ga", "npo", "none", "oracle"}
    assert schema["$defs"]["Retain"]["properties"]["nll"]["minimum"] == 0
    (entries,) = schema["$defs"]["AttackSection"]["properties"]["attacks"][
        "patternProperties"
    ].values()
    assert set(entries["discriminator"]["mapping"]) == set(attacks.registry())


def test_what_is_done_can_be_asked_without_the_models_files(tmp_path):
    """A model whose files are not here stops a run and no look at the grid."""
    path = write(tmp_path, pretrain__models__llama_tiny__config={"model_type": "nowhere"})
    with pytest.raises(ConfigError):
        load_params(path)
    assert load_grid(path).grid.models == ["llama_tiny"]


def test_a_grid_that_names_what_is_not_there_is_refused_with_its_file(tmp_path):
    path = write(tmp_path, grid__methods=["none", "oracle", "gaa"])
    with pytest.raises(ConfigError, match=r"params\.yaml: grid\.methods = 'gaa': not in unlearn"):
        load_grid(path)


@pytest.mark.parametrize("name", ["../x", 7, ["x"]])
def test_the_experiments_name_alone(tmp_path, name):
    """Whatever else the file says; but a name that could leave the results is none."""
    assert experiment_name(write(tmp_path, grid=["no grid"])) == "world"
    with pytest.raises(ConfigError, match=r"params\.yaml: experiment = .*: must be a name of"):
        experiment_name(write(tmp_path, experiment=name))
