"""Every phase that evaluates looks at the weights after the answers, before it writes anything."""

import pytest
from machines import CPU

from atu.errors import EvaluationError
from atu.phases import attack, privacy, rephrase, utility
from atu.results.artifacts import MANIFEST

PHASES = {
    rephrase: lambda out, params, chain: rephrase.run(
        out, params.rephrase, CPU, chain.unlearn, chain.prepared
    ),
    utility: lambda out, params, chain: utility.run(
        out, params.utility, CPU, chain.unlearn, chain.prepared, None
    ),
    privacy: lambda out, params, chain: privacy.run(
        out, params.privacy, CPU, chain.unlearn, chain.prepared, chain.rephrase,
        chain.oracle_privacy,
    ),
    attack: lambda out, params, chain: attack.run(
        out, params.attack, CPU, "lens", chain.unlearn, chain.prepared, None, None
    ),
}  # fmt: skip


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.PHASE)
def test_weights_that_no_answer_shows_fail_the_phase(
    phase, chain, mini_params, tmp_path, monkeypatch
):
    """NaN can stay in the weights; nothing is left behind."""

    def refuse(model):
        raise EvaluationError(f"{next(model.named_parameters())[0]}: a weight is not finite")

    monkeypatch.setattr(phase, "require_finite_weights", refuse)
    with pytest.raises(EvaluationError, match=r"embed\w+\.weight: a weight is not finite"):
        PHASES[phase](tmp_path / "out" / MANIFEST, mini_params, chain)
    assert list(tmp_path.iterdir()) == []
