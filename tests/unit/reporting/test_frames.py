"""`results`: finished cells as frames."""

import pytest

from atu.errors import ArtifactError
from atu.reporting.frames import results

WORST = "rephrase/target.worst.exact_match@own-2/report"


def test_a_row_per_cell_in_order(world):
    world("none")
    world("ga", 1)
    frame = results(world("ga", 0))
    assert frame.select("model", "target", "method", "seed").rows() == [
        ("m", "Ada", "ga", 0), ("m", "Ada", "ga", 1), ("m", "Ada", "none", 0),
    ]  # fmt: skip
    assert frame[WORST].to_list() == [0.5, 0.5, 0.5]
    assert frame["unlearn/step/select"].to_list() == [4.0, 4.0, 0.0]


def test_an_attack_is_in_its_cells_row(world):
    world("none")
    frame = results(world("ga", attacks={"lens": 0.25}))
    assert frame["attack/lens.score/report"].to_list() == [0.25, None]


def test_a_job_that_is_not_finished_is_null(world):
    folder = world("ga")
    whole = folder / "utility/m/Ada/ga/0"
    whole.rename(whole.with_name(".0.partial"))
    frame = results(folder)
    assert len(frame) == 1 and not any(name.startswith("utility/") for name in frame.columns)


def test_items_are_those_that_are_reported(world):
    """10 questions: two facts of four roles in plain questions, and five more kinds; none of
    `select`."""
    frame = results(world("ga", leaks={("Ada/pet", "question")}), items=True)
    assert set(frame["split"]) == {"report"} and set(frame["method"]) == {"ga"}
    asked = frame.filter(role="target", form="question", seen=False)
    assert dict(asked.select("fact", "score").rows()) == {"Ada/pet": 1.0, "Ada/food": 0.0}


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match=r"holds no finished rephrase job; .* `snakemake reph"):
        results(tmp_path, items=True)


def test_an_altered_file_is_refused(world):
    folder = world("ga")
    (folder / "rephrase/m/Ada/ga/0/metrics.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ArtifactError, match="truncated or altered"):
        results(folder)
