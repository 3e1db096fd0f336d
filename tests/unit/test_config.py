"""The parameter file: what is accepted, and what one message each bad value gets."""

import copy
import json
import math
from pathlib import Path

import pytest
import yaml

from atu.config import load_params, schema_text, target_slug
from atu.errors import ConfigError

ROOT = Path(__file__).parents[2]
GOOD = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))


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
    assert params.unlearn.methods["atu"].retain.term == "kl"


LLAMA = "pretrain__models__llama_tiny__config"
BAD = {
    "unknown key": ({"align__hook_layr": 2}, "align.hook_layr", "hook_layer"),
    "unknown top key": ({"alin": 2}, "alin", "align"),
    "unknown method key": ({"unlearn__methods__ga__beta": 1.0}, "unlearn.methods.ga.beta", "steps"),
    "unknown retain key": (
        {"unlearn__methods__ga__retain": {"term": "none", "weight": 0.0, "x": 1}},
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
        {"unlearn__methods__atu__quantiles": [0.3, 0.5]},
        "unlearn.methods.atu",
        "fall strictly",
    ),
    "both ladders": (
        {"unlearn__methods__atu__thresholds": [0.5]},
        "unlearn.methods.atu",
        "either `quantiles` or `thresholds`",
    ),
    "hook layer beyond the model": ({"align__hook_layer": 4}, "align.hook_layer", "1 to 3"),
    "heads that do not divide": ({"align__heads": 3}, "align.heads", "divide"),
    "unknown method": ({"unlearn__methods__ga__loss": "gaa"}, "unlearn.methods.ga.loss", "npo"),
    "method without loss": ({"unlearn__methods__ga": {}}, "unlearn.methods.ga", "key `loss`"),
    "method not in unlearn": ({"grid__methods": ["none", "gaa"]}, "grid.methods", "graddiff"),
    "grid without the original": ({"grid__methods": ["atu"]}, "grid.methods", "add `none`"),
    "target not in the world": ({"grid__targets": ["Nobody Else"]}, "grid.targets", "its people"),
    "path separator": ({"grid__targets": ["../x"]}, "grid.targets", "path separator"),
    "reserved name": ({"grid__targets": ["shared"]}, "grid.targets", "reserved"),
    "two targets with one folder": (
        {"grid__targets": ["Epheron Wendosk", "Epheron_Wendosk"]},
        "grid.targets",
        "share a folder",
    ),
    "experiment that leaves results": ({"experiment": "../up"}, "experiment", "pattern"),
    "twice the same seed": ({"grid__seeds": [1, 1]}, "grid.seeds", "remove one"),
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
        {"unlearn__methods__atu__steps": 4},
        "unlearn.methods.atu",
        "5 rounds",
    ),
    "evaluations of a method with rounds": (
        {"unlearn__methods__atu__evaluations": 4},
        "unlearn.methods.atu.evaluations",
        "unknown key",
    ),
    "a retain weight without a term": (
        {"unlearn__methods__ga__retain": {"term": "none", "weight": 1.0}},
        "unlearn.methods.ga.retain",
        "goes with 0",
    ),
    "a retain term without weight": (
        {"unlearn__methods__graddiff__retain": {"term": "nll", "weight": 0.0}},
        "unlearn.methods.graddiff.retain",
        "goes with 0",
    ),
    "odd number of people": ({"prepare__people": 47}, "prepare.people", "even number"),
    "unknown benchmark": ({"prepare__benchmark": "rwku"}, "prepare.benchmark", "world"),
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


@pytest.mark.parametrize("name", ["", " x", "a/b", "a\\b", "..", ".hidden", "a\nb", "Full"])
def test_names_that_could_leave_the_results_folder(name):
    with pytest.raises(ValueError, match=r"empty|separator|reserved"):
        target_slug(name)


def test_a_section_holds_only_its_own_model_or_method():
    """So that editing one method reruns that method alone."""
    params = load_params(ROOT / "params.yaml")
    assert list(params.section("unlearn", "ga")["methods"]) == ["ga"]
    assert list(params.section("pretrain", "llama_tiny")["models"]) == ["llama_tiny"]
    assert params.section("align") == GOOD["align"]


def test_the_schema_file_is_the_generated_one():
    """Red when a model changed and `make schema` was forgotten."""
    stored = (ROOT / "workflow/schemas/params.schema.json").read_text(encoding="utf-8")
    assert stored == schema_text()


def test_the_schema_knows_bounds_methods_and_closed_sections():
    schema = json.loads(schema_text())
    assert schema["$defs"]["Align"]["additionalProperties"] is False
    (entries,) = schema["$defs"]["Unlearn"]["properties"]["methods"]["patternProperties"].values()
    assert set(entries["discriminator"]["mapping"]) >= {"atu", "ga", "npo", "none", "oracle"}
    assert schema["$defs"]["RetainTerm"]["properties"]["weight"]["minimum"] == 0
