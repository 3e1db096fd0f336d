"""What several ranks compute, and one process: `processes/test_ranks.py` runs it in itself and, as
a script, in two ranks of the launcher's.

    python several.py <folder of the miniature's phases> <parameter file> <folder for results>
"""

import dataclasses
import gc
import json
import os
import shutil
import sys
from pathlib import Path
from unittest import mock

import torch
import transformers
import yaml
from families import SPECIAL, TINY
from machines import CPU, cpu_for
from made.retain import NO_RETAIN

from atu.config.params import Params
from atu.distributed import processes
from atu.errors import ArtifactError
from atu.methods.base import Retain
from atu.models import shards
from atu.models.build import build_lm
from atu.models.llm import hidden_states_at, load_lm
from atu.models.shards import sharded_copy, whole_state
from atu.models.trainable import BelowHook, Layers, Lora
from atu.phases import align
from atu.results.artifacts import MANIFEST, Artifact
from atu.results.checkpoints import State, Store
from atu.results.files import write_json
from atu.unlearning import engine as unlearning
from atu.unlearning.engine import UnlearnInputs
from atu.unlearning.trajectory import select_probes

SHORT = {"steps": 3, "evaluations": 1, "batch_size": 4}
CHECKPOINTING = dataclasses.replace(CPU, precision="bfloat16", checkpointing=True)
CASES = {
    # Five texts of two processes: three and two.
    "ga": ("ga", SHORT | {"batch_size": 5, "retain": Retain(**NO_RETAIN | {"nll": 1.0})}, CPU),
    "npo": ("npo_retain", SHORT | {"retain": Retain(**NO_RETAIN | {"kl": 1.0})}, CPU),
    "rmu": ("rmu", SHORT | {"layer": 2, "optimizer": "sgd", "train": Layers("layers", [0])}, CPU),
    "flat": ("flat", SHORT | {"batch_size": 3}, CPU),
    "whp": ("whp", SHORT | {"steps": 1, "reinforce_steps": 2}, CPU),
    "atu": ("atu", {"stop_below": None, "train": BelowHook("below_hook")}, CPU),
    "atu_lora": ("atu", {"stop_below": None, "realign_steps": 0, "train": Lora("lora", 2, 4)}, CPU),
    "bfloat16": ("ga", SHORT | {"steps": 2}, CHECKPOINTING),
}
"""By name a key of unlearn.methods, what is changed of its entry, and what it runs on."""


def few_probes(prepare, per_role):
    """Of those that are asked on the way some: answers cost more than all steps."""
    return select_probes(prepare, per_role)[::20]


def whole_models():
    """How many models with all of their weights this process holds."""
    gc.collect()
    return sum(
        issubclass(type(found), transformers.PreTrainedModel)
        and hasattr(found, "lm_head")
        and not processes.is_shard(next(found.parameters()))
        for found in gc.get_objects()
    )


def run_case(name, params, inputs):
    """Trace, trajectory, cost and, in the first process, weights and adapter of one case."""
    key, own, compute = CASES[name]
    settings = dataclasses.replace(params.unlearn.methods[key], **own)
    section = params.unlearn.model_copy(update={"keep": "best"})
    model, tokenizer = load_lm(inputs.pretrain.subfolder("model"), compute, training=True)
    held = []

    def watched(model):
        held.append(whole_models())
        return sharded_copy(model)

    with (
        mock.patch.object(unlearning, "select_probes", few_probes),
        mock.patch.object(shards, "sharded_copy", watched),
    ):
        found = unlearning.run_method(model, tokenizer, settings, section, inputs, 0)
    weights = [p.detach().flatten() for p in model.parameters()]
    adapter = found.adapter.tensors.values() if found.adapter else []
    return {
        "trace": found.trace.rows,
        "trajectory": found.trajectory,
        "cost": found.cost,
        "weights": torch.cat([*weights, *(a.flatten() for a in adapter)]).tolist(),
        "held": held,
        "plain": all(type(p) is torch.nn.Parameter for p in model.parameters()),
    }


def collectives():
    """What the functions of `processes` give on numbers that are worked out in the test."""
    rank = processes.rank()
    weight = torch.nn.Parameter(torch.ones(2))
    # Rows 1, 2 of the first and 9 of the second process.
    rows = processes.share(torch.tensor([[1.0], [9.0], [2.0]]))
    part = processes.mean((rows * weight[0]).sum(), torch.tensor(len(rows)))
    (part + 0 * weight.sum()).backward()
    processes.average_gradients([weight])
    numbers = torch.arange(5.0)[:, None]
    return {
        "mean": processes.averages([part.item()]),
        "gradient": weight.grad.tolist(),
        "total": processes.total(rank + 1),
        "any": processes.any_of(rank == 1, False),
        "agreed": processes.agreed({"from": rank}),
        "rows": processes.join_rows(processes.split_rows(numbers) * 2, 5).flatten().tolist(),
        "streams": processes.rank_stream(),
    }


def resuming(out):
    """From what the processes resume whose folders differ, as on two file systems: the second has a
    newer checkpoint, then none; and what is said of that.
    """
    store = Store(out / f"own{processes.rank()}", {"job": 1})
    store._write(State({"step": 1}, {}))
    if not processes.is_rank_zero():
        shutil.copytree(store.folder / "1", out / "kept")
        store._write(State({"step": 2}, {}))
        shutil.move(out / "kept", store.folder / "1")
    step = store.load().values["step"]
    if not processes.is_rank_zero():
        shutil.rmtree(store.folder)
    try:
        store.load()
    except ArtifactError as error:
        return {"step": step, "said": str(error)}
    return {"step": step, "said": None}


def sharding(inputs):
    """Of a sharded copy: which share of each parameter is here, and whether tied ones are tied."""
    model, _ = load_lm(inputs.pretrain.subfolder("model"), CPU, training=True)
    made = sharded_copy(model)
    here = {name: p.to_local().numel() for name, p in made.named_parameters()}
    state = whole_state(made)
    return {
        "shares": {n: here[n] / p.numel() for n, p in model.named_parameters() if len(p) % 2 == 0},
        "tied": made.get_input_embeddings().weight is made.get_output_embeddings().weight,
        "whole": not processes.is_rank_zero()
        or all(torch.equal(state[name], value) for name, value in model.state_dict().items()),
    }


def whole(tensor):
    """A tensor of which every rank may have a part."""
    return tensor.full_tensor() if processes.is_shard(tensor) else tensor


def family(kind):
    """Of a model of the family whose table has an odd number of rows, whole and in shards: by how
    much a loss on two early exits and the logits differs, and its gradients; and whether the
    shards are the model again when they are put together.
    """
    config = {"model_type": kind, "vocab_size": 33, **SPECIAL, **TINY[kind]}
    model = build_lm(config, 0).eval()
    model.set_attn_implementation(cpu_for(kind).attention)
    ids = torch.randint(3, 33, (2, 6), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    shards, losses, gradients = sharded_copy(model), [], []
    for one in (model, shards):
        states = hidden_states_at(one, ids, mask, [1, 2])
        logits = one(input_ids=ids, attention_mask=mask).logits
        loss = states[1].square().mean() + states[2].mean() + logits.square().mean()
        loss.backward()
        losses.append(loss.item())
        gradients.append([whole(p.grad) for p in one.parameters()])
    state = whole_state(shards)
    if not processes.is_rank_zero():
        return None
    pairs = zip(*gradients, strict=True)
    return {
        "loss": abs(losses[0] - losses[1]),
        "gradient": max((a - b).abs().max().item() for a, b in pairs),
        "whole": all(torch.equal(state[n], v) for n, v in model.state_dict().items()),
    }


def listeners():
    """Addresses at which this process listens, of IPv4 and IPv6, as the kernel writes them."""
    own = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            own.add(str(entry.readlink()))
        except OSError:
            continue
    found = []
    for name in ("tcp", "tcp6"):
        table = Path("/proc/self/net", name)
        for line in table.read_text().splitlines()[1:] if table.exists() else []:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in own:
                found.append(fields[1].split(":")[0])
    return found


def work(chain, params, out):
    """All of it, in as many processes as there are; the first one's findings."""

    def opened(name, phase):
        return Artifact.open(chain / name / MANIFEST, phase)

    full, prepared, embedded = (
        opened(*names)
        for names in (("full", "pretrain"), ("prepared", "prepare"), ("embed", "embed"))
    )
    found = {"collectives": collectives()}
    align.run(out / "align" / MANIFEST, params.align, CPU, 0, full, embedded, prepared)
    inputs = UnlearnInputs(full, prepared, embedded, opened("align", "align"))
    if processes.world_size() > 1:
        found["resuming"] = resuming(out)
        found["sharding"] = sharding(inputs)
        found["families"] = {kind: family(kind) for kind in TINY}
    found |= {name: run_case(name, params, inputs) for name in CASES}
    return found | {"listeners": listeners()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    chain, params, out = map(Path, sys.argv[1:])
    processes.join(torch.device("cpu"))
    result = work(chain, Params.model_validate(yaml.safe_load(params.read_text())), out)
    write_json(out / f"{os.environ['RANK']}.json", json.loads(json.dumps(result)))
    processes.leave()
