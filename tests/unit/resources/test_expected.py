"""What is said before a job starts, and what is refused."""

import pytest

from atu.errors import ResourceError
from atu.resources.demands import expected, grid_requests, grid_table, unlearn_request
from atu.resources.expected import Job, Request, known_shape, line, require_fit, size
from atu.resources.memory import Plan, plan
from atu.resources.planning import Lengths
from atu.resources.saved import Compute

CPU = Compute(4, 4, "sdpa", checkpointing=False, device="cpu")


def request(**own):
    """100 bytes at batch 8, of which 60 come with the batch and 30 go with LoRA; checkpointing
    halves what comes with the batch."""

    def make(compute, batch, lora):
        share = batch * 60 / 8 / (2 if compute.checkpointing else 1)
        return plan("now", {"weights": 10, "optimizer": 0 if lora else 30, "activations": share})

    keys = {"train_key": "u.train", "checkpointing_key": "c.checkpointing"} | own
    return Request("u", CPU, 8, "u.batch_size", make, **keys)


@pytest.mark.parametrize("free", [100, 200, None])
def test_what_fits_is_let_through(free):
    assert require_fit(request(), free).peak == 100


@pytest.mark.parametrize(
    ("free", "own", "proposed"),
    [
        (99, {}, "with `c.checkpointing: true` it needs 0.0 MB"),
        (70, {}, "with `c.checkpointing: true`"),
        (69, {}, "with `u.batch_size: 2`"),
        (70, {"checkpointing_key": None}, "with `u.batch_size: 4`"),
        (48, {}, "with `u.batch_size: 1`"),
    ],
)
def test_the_first_change_that_fits_is_named(free, own, proposed):
    """With checkpointing 70 bytes; at batch 4, 2 and 1 they are 70, 55 and 47.5."""
    with pytest.raises(ResourceError, match=proposed):
        require_fit(request(**own), free)


def test_lora_is_the_last_resort():
    """At batch 1 nothing is left to halve: 100 bytes, 70 with LoRA."""

    def make(_compute, _batch, lora):
        return plan("now", {"weights": 100 - (30 if lora else 0)})

    single = Request("u", CPU, 1, "u.batch_size", make, train_key="u.train")
    with pytest.raises(
        ResourceError, match=r"with `u.train: \{update: lora, rank: 8, alpha: 16\}`"
    ):
        require_fit(single, 70)
    with pytest.raises(ResourceError, match="no checkpointing, smaller batch or LoRA fits"):
        require_fit(single, 69)


def test_more_gpus_are_named_before_lora():
    """At batch 1 on a GPU: 100 bytes, of four processes 25 and 20 that each has whole."""

    def make(_compute, _batch, lora):
        return plan("now", {"weights": 100 - (60 if lora else 0)})

    def spread(count):
        return plan("now", {"weights": 100 / count, "gathered": 20})

    single = Request("u", CPU, 1, "u.batch_size", make, train_key="u.train", spread=spread)
    with pytest.raises(ResourceError, match=r"with `gpu: 4` it needs"):
        require_fit(single, 45)
    with pytest.raises(ResourceError, match=r"with `gpu: 2` it needs"):
        require_fit(single, 70)


def test_a_refusal_has_both_numbers():
    def make(_compute, batch, _lora):
        return plan("now", {"weights": batch * 1e9})

    with pytest.raises(ResourceError) as error:
        require_fit(Request("align", CPU, 8, "align.batch_tokens", make), 3 * 10**9)
    assert str(error.value) == (
        "align: 8.0 GB of memory expected, 3.0 GB free; "
        "with `align.batch_tokens: 2` it needs 2.0 GB"
    )


@pytest.mark.parametrize(
    ("count", "text"), [(1.5e9, "1.5 GB"), (412e6, "412 MB"), (300e3, "0.3 MB")]
)
def test_sizes(count, text):
    assert size(count) == text


def test_the_line():
    found = Plan("forward", (("weights", 3 * 10**6), ("activations", 40 * 10**6)))
    assert line(found, 23_100_000_000) == (
        "memory: 43 MB expected at most, in forward (activations 40 MB, weights 3.0 MB); "
        "23.1 GB free"
    )
    assert line(found, None).endswith("weights 3.0 MB)")


class TestJobs:
    def test_a_real_job_says_it(self, chain, mini_params, capsys):
        own = {"model": chain.full, "prepare": chain.prepared}
        expected("unlearn", mini_params, embed=chain.embed, name="atu", **own)
        expected("align", mini_params, embed=chain.embed, **own)
        for phase in ("rephrase", "utility", "privacy"):
            expected(phase, mini_params, **own)
        expected("attack", mini_params, name="relearn", **own)
        expected("pretrain", mini_params, name="llama_tiny")
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 7
        assert all(text.startswith("memory: ") and " free" in text for text in lines)
        assert "cached states" in lines[1]

    def test_a_job_that_does_not_fit_is_refused(self, chain, mini_params, monkeypatch):
        """The miniature's GA in 1 MB: its weights alone are less, any batch more."""
        monkeypatch.setattr("atu.resources.expected.free_bytes", lambda _device: 10**6)
        with pytest.raises(ResourceError, match=r"^unlearn.methods.ga: .* expected, 1.0 MB free"):
            expected("unlearn", mini_params, model=chain.full, prepare=chain.prepared, name="ga")

    def test_a_damaged_folder_is_left_to_the_job(self, mini_params, store, capsys):
        empty = store("empty", "unlearn")
        expected("rephrase", mini_params, model=empty, prepare=empty)
        assert capsys.readouterr().err == ""

    def test_an_unknown_family_is_not_refused(self, capsys):
        assert known_shape({"model_type": "bloom"}) is None
        assert "'bloom'" in capsys.readouterr().err


class TestGrid:
    def test_every_job_is_listed(self, mini_params):
        text = grid_table(mini_params, 40, None)
        jobs = [what for _, what, _ in grid_requests(mini_params, 40)]
        assert jobs == [
            "pretrain", "align", "unlearn none", "unlearn oracle", "unlearn atu", "unlearn ga",
            "rephrase", "utility", "privacy", "attack lens", "attack fresh_predictor",
        ]  # fmt: skip
        assert len(text.splitlines()) == 1 + len(jobs)

    def test_what_does_not_fit_follows_the_table(self, mini_params):
        last = grid_table(mini_params, 40, 10**5).splitlines()[-1]
        assert last.startswith("llama_tiny: attack.attacks.fresh_predictor: ")
        assert "0.1 MB free; no checkpointing" in last

    def test_every_method_of_the_comparison_has_a_plan(self, make_params, mini_values):
        params = make_params()
        spec = params.pretrain.models["llama_tiny"]
        shape = known_shape(spec.config | {"vocab_size": spec.vocab_size})
        job = Job(shape, Lengths(40, 40, 20, 60), None, 0)
        without = {name for name in params.unlearn.methods if name != "atu"}
        peaks = {
            name: unlearn_request(params, job, name, params.unlearn.methods[name]).plan.peak
            for name in without
        }
        assert peaks["none"] < min(
            peaks[name] for name in without - {"none", "oracle", "icu", "eco"}
        )
        assert peaks["npo_retain"] > peaks["npo"] > peaks["ga"]
        assert peaks["npo_mudman"] > peaks["npo"] and peaks["whp"] > peaks["undial"]
