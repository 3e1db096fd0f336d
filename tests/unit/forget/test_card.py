"""The card's numbers and its metadata, by hand."""

import json
from dataclasses import dataclass, replace
from typing import Any

import pytest
import yaml

from atu.forget.card import Sources, base_link, cost, front_matter, interval, plain, table
from atu.results.artifacts import PROVENANCE

ROW = {"target": "0.5", "target_low": "0.25", "target_high": "0.75", "target_n": "8",
       "worst_form": "", "worst_form_low": "", "worst_form_high": "", "worst_form_n": "4",
       "fluency": "6.512", "perplexity": "3.25", "collapsed": "0.0"}  # fmt: skip


@dataclass
class Nothing:
    manifest: Any = None


SOURCES = Sources(
    *[Nothing()] * 6, "owner/name", "abc", True, "atu", False, None, 0.5, "best", False
)  # type: ignore[arg-type]


def test_an_estimate_with_its_interval_and_items():
    assert interval(ROW, "target") == "0.50 [0.25, 0.75] (8)"
    assert interval(ROW, "worst_form") == "INVALID (4)"


def test_a_line_per_column_that_was_asked():
    """Nothing was asked about neighbours; the original stands beside the unlearned model."""
    found = table({"none": ROW, "atu": ROW | {"target": "0", "collapsed": "1.0"}}, "atu")
    assert [row["title"] for row in found] == [
        "questions about the concept", "the concept, worst form",
        "fluency of generated text, bits", "perplexity on retain texts", "COLLAPSED",
    ]  # fmt: skip
    assert found[0]["before"] == "0.50 [0.25, 0.75] (8)"
    assert found[0]["after"] == "0.00 [0.25, 0.75] (8)"
    assert found[2]["before"] == "6.51" and (found[-1]["before"], found[-1]["after"]) == (
        "no",
        "yes",
    )


def test_what_is_asked_in_one_form_has_no_worst():
    found = table({"none": ROW, "atu": ROW}, "atu", one_form=True)
    assert "the concept, worst form" not in {row["title"] for row in found}


@pytest.mark.parametrize(("lora", "relation"), [(False, "finetune"), (True, "adapter")])
def test_the_hubs_metadata(lora, relation):
    found = yaml.safe_load(front_matter(replace(SOURCES, lora=lora)))
    assert found["base_model"] == "owner/name" and found["base_model_relation"] == relation
    assert "license" not in found
    assert found["library_name"] == ("peft" if lora else "transformers")


def test_a_local_folder_is_no_model_of_the_hub():
    """And its path is nobody's business."""
    local = replace(SOURCES, place="/home/ann/models/tiny", is_hub=False)
    assert "base_model" not in yaml.safe_load(front_matter(local))
    assert base_link(local) == "`tiny` (a local folder)"
    assert base_link(SOURCES) == "[owner/name](https://huggingface.co/owner/name) at `abc`"


@pytest.mark.parametrize(("device", "named"), [("cpu", "CPU"), ("Some GPU", "Some GPU")])
def test_the_cost_names_the_device(store, device, named):
    """Steps and tokens are the job's metrics; seconds and the device its record's."""
    metrics = {"model_steps": 4.0, "predictor_steps": 2.0, "tokens": 90.0}
    folder = store(
        "u", "unlearn", metrics={f"unlearn/{key}/all": value for key, value in metrics.items()}
    )
    record = json.loads((folder.folder / PROVENANCE).read_text(encoding="utf-8"))
    changed = record | {"device": device, "seconds": 7.4}
    (folder.folder / PROVENANCE).write_text(json.dumps(changed), encoding="utf-8")
    found = cost(folder)
    assert (found["steps"], found["predictor_steps"], found["tokens"]) == (4, 2, 90)
    assert (found["seconds"], found["device"]) == (7, named)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Zoë's *owl* | `x`", r"Zoë's \*owl\* \| \`x\`"),
        ("[a](http://b) <b>", r"\[a\]\(http://b\) \<b\>"),
        ("# a\n\n- b", r"\# a - b"),
        ("a\u202eb\x1b[2J", r"a\\u202eb\\x1b\[2J"),
    ],
)
def test_a_name_is_no_markdown(name, shown):
    """Neighbours are named by a model: a link, a tag or a table's bar among them is only shown."""
    assert plain(name) == shown
