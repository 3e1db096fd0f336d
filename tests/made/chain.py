"""Every phase of the miniature, run in this process."""

from types import SimpleNamespace

from machines import CPU

from atu.phases import (
    align,
    attack,
    embed,
    prepare,
    pretrain,
    privacy,
    rephrase,
    unlearn,
    utility,
)
from atu.results.artifacts import MANIFEST, Artifact
from atu.untrusted.targets import Target


def run_chain(folder, params, method="atu"):
    """Every phase from prepare to one attack, and the oracle; the opened folders by name."""

    def out(name):
        return folder / name / MANIFEST

    done = {}

    def finish(name, phase):
        done[name] = Artifact.open(out(name), phase)
        return done[name]

    target = params.grid.targets[0]
    prepare.run_shared(out("shared"), params.prepare)
    shared = finish("shared", "prepare")
    prepare.run_target(out("prepared"), params.prepare, Target((target,)), shared)
    prepared = finish("prepared", "prepare")
    pretrain.run(out("full"), params.pretrain, CPU, "llama_tiny", shared, None)
    full = finish("full", "pretrain")
    embed.run(out("embed"), params.embed, CPU, full, prepared)
    align.run(out("align"), params.align, CPU, 0, full, finish("embed", "embed"), prepared)
    inputs = unlearn.UnlearnInputs(full, prepared, done["embed"], finish("align", "align"))
    unlearn.run(out("unlearn"), params.unlearn, CPU, method, 0, inputs)
    unlearned = finish("unlearn", "unlearn")
    rephrase.run(out("rephrase"), params.rephrase, CPU, unlearned, prepared)
    rephrased = finish("rephrase", "rephrase")
    utility.run(out("utility"), params.utility, CPU, unlearned, prepared, None)
    finish("utility", "utility")
    pretrain.run(out("oracle_lm"), params.pretrain, CPU, "llama_tiny", shared, prepared)
    inputs = unlearn.UnlearnInputs(finish("oracle_lm", "pretrain"), prepared, None, None)
    unlearn.run(out("oracle"), params.unlearn, CPU, "oracle", 0, inputs)
    oracle = finish("oracle", "unlearn")
    rephrase.run(out("oracle_rephrase"), params.rephrase, CPU, oracle, prepared)
    asked = finish("oracle_rephrase", "rephrase")
    privacy.run(out("oracle_privacy"), params.privacy, CPU, oracle, prepared, asked, None)
    reference = finish("oracle_privacy", "privacy")
    privacy.run(out("privacy"), params.privacy, CPU, unlearned, prepared, rephrased, reference)
    finish("privacy", "privacy")
    attack.run(out("attack"), params.attack, CPU, "lens", unlearned, prepared, None, None)
    finish("attack", "attack")
    return SimpleNamespace(**done)
