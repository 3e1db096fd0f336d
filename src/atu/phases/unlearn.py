"""unlearn: run one method from the original model and record its trajectory."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atu.config.dependencies import dependencies
from atu.config.sections import Unlearn
from atu.config.spaces import chosen_settings
from atu.distributed import processes
from atu.models.checkpoint import place_checkpoint, require_checkpoint_of
from atu.models.compute import Compute
from atu.models.llm import load_lm, open_lm, save_lm
from atu.models.pinned import PIN, is_pinned, model_folder
from atu.models.shards import loading_place
from atu.models.trainable import trains_weights
from atu.results.artifacts import Artifact
from atu.results.files import write_jsonl
from atu.results.jobs import Job, write_folder
from atu.training.keeper import Keeper, Trace
from atu.unlearning.engine import UnlearnInputs, require_inputs, run_method

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PHASE = "unlearn"


def settings_of(section: Unlearn, method_name: str, search: Artifact | None) -> Any:
    """The method's settings: those of the section, or those that its search has chosen."""
    if search is not None:
        return chosen_settings(search, method_name)
    return section.methods[method_name]


def run(
    out: Path,
    section: Unlearn,
    compute: Compute,
    method_name: str,
    seed: int,
    inputs: UnlearnInputs,
    search: Artifact | None = None,
) -> None:
    """Write the unlearned model (a pin where it is a pinned one, unchanged or given), `trace.jsonl`
    (every step) and `trajectory.jsonl` (every point); with LoRA also the adapter that was merged.

    With `search`, the folder of the method's search, its chosen settings replace those of the
    section. The trajectory, the stopping rule and the choice of a point read the `select` split
    only.
    """
    settings = settings_of(section, method_name, search)
    method = require_inputs(method_name, settings, inputs)
    cell = {
        "model": inputs.pretrain.cell["model"],
        "target": inputs.prepare.cell["target"],
        "method": method_name,
        "seed": seed,
    }
    used = section.model_copy(update={"methods": {method_name: settings}})
    params = dependencies(PHASE, used, compute, method_name)
    given = inputs.present() | ({"search": search} if search else {})
    with write_folder(out, PHASE, cell=cell, params=params, inputs=given) as job:
        if method.given:
            model, tokenizer = _open_given(settings, inputs.pretrain, compute, job)
        else:
            model, tokenizer = open_lm(
                inputs.pretrain, compute, training=trains_weights(settings), place=loading_place()
            )
        keeper = Keeper(job.checkpoints, Trace())
        outcome = run_method(model, tokenizer, settings, section, inputs, seed, keeper)
        if not processes.is_rank_zero():
            return
        job.notes["resumed"] = keeper.resumed
        if method.unchanged and is_pinned(inputs.pretrain):
            shutil.copyfile(inputs.pretrain.file(PIN), job.path(PIN))
        elif not method.given:  # it is there already
            save_lm(model, tokenizer, job.path("model"))
        if outcome.adapter is not None:
            outcome.adapter.save(job.path("adapter"))
        write_jsonl(job.path("trace.jsonl"), outcome.trace.rows)
        write_jsonl(job.path("trajectory.jsonl"), outcome.trajectory)
        job.metrics = outcome.metrics()


def _open_given(
    settings: Any, original: Artifact, compute: Compute, job: Job
) -> tuple[PreTrainedModel, Any]:
    """Somebody else's checkpoint of the original, put into the job's folder.

    Raises:
        ArtifactError: it is none of the original's.
    """
    code = original.cell["model"] in compute.remote_code
    base = model_folder(original, code)
    folder = place_checkpoint(settings.source, job.path, base, code)
    require_checkpoint_of(folder, base, code)
    return load_lm(folder, compute, training=False, code=code)
