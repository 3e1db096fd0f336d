import json

import numpy as np
import polars as pl
import pytest
import torch
from machines import CPU

from atu.errors import EvaluationError
from atu.inference.scoring import score_answers
from atu.metrics import membership as mia
from atu.metrics import memorisation as memo
from atu.models.llm import load_lm
from atu.phases import privacy
from atu.privacy import answers, texts
from atu.privacy.answers import RATIOS, ROLES
from atu.results.artifacts import MANIFEST, PROVENANCE
from atu.results.tables import read_frame, read_table

LEAK = memo.muse_priv_leak.id


@pytest.fixture
def run(tmp_path, chain, mini_params):
    """A function that runs the phase on the miniature's unlearned model; the metrics come back."""

    def run(reference, section=mini_params.privacy, unlearned=chain.unlearn, **options):
        out = tmp_path / "out" / MANIFEST
        privacy.run(
            out, section, CPU, unlearned, chain.prepared, chain.rephrase, reference, **options
        )
        return json.loads((out.parent / "metrics.json").read_text(encoding="utf-8"))

    return run


@pytest.fixture
def altered(store, chain):
    """A function that gives the oracle's folder with its tables changed."""

    def make(answers=lambda table: table, texts=lambda table: table):
        tables = [
            change(pl.read_parquet(chain.oracle_privacy.file(f"{name}.parquet")))
            for name, change in (("answers", answers), ("texts", texts))
        ]
        files = dict(zip(("answers.parquet", "texts.parquet"), tables, strict=True))
        return store(
            "reference", "privacy", chain.oracle_privacy.cell,
            files={name: table.write_parquet for name, table in files.items()},
            params=chain.oracle_privacy.manifest["params"],
        )  # fmt: skip

    return make


# --- the reference


def test_without_a_reference_there_is_no_result(run, tmp_path):
    """Nothing stands in for the oracle."""
    with pytest.raises(EvaluationError, match="needs --reference"):
        run(None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": lambda table: table.tail(-1)}, "other questions"),
        ({"answers": lambda t: t.with_columns(pl.col("id") + "x")}, "other questions"),
        ({"texts": lambda table: table.tail(-1)}, "other texts"),
        ({"texts": lambda table: table.reverse()}, "other texts"),
    ],
    ids=["a question less", "other questions", "a text less", "another order"],
)
def test_a_reference_that_scored_something_else_is_refused(run, tmp_path, altered, change, message):
    with pytest.raises(EvaluationError, match=f"{message}; run its privacy again"):
        run(altered(**change))
    assert not (tmp_path / "out").exists()


def test_a_reference_that_is_not_the_oracles_is_refused(run, chain):
    """Measured against itself, every model would look like one that never knew the target."""
    with pytest.raises(EvaluationError, match="oracle"):
        run(chain.privacy)


def test_a_reference_with_other_settings_is_refused(run, chain, mini_params):
    """Two AUCs of different shares of tokens do not compare."""
    section = mini_params.privacy.model_copy(update={"min_k": 0.2})
    with pytest.raises(EvaluationError, match="min_k"):
        run(chain.oracle_privacy, section)


def test_the_oracle_is_measured_against_itself(chain):
    """Alike with p = 1, so log10 p = 0; nothing leaks; no text is likelier than it is."""
    metrics = chain.oracle_privacy.metrics()
    for name in RATIOS:
        assert metrics[f"privacy/target.{name}.{memo.tofu_forget_quality.id}/report"] == 0.0
    assert metrics[f"privacy/forget.{LEAK}/report"] == 0.0
    reference = mia.membership_reference.id
    assert metrics[f"privacy/forget.{reference}.{mia.auc.id}/report"] == 0.5


def test_the_unlearned_model_is_measured_against_the_oracle(chain):
    """Its ratios and its AUC beside the oracle's, from both folders' own tables."""
    ours, theirs = (
        pl.read_parquet(folder.file("answers.parquet")).filter(pl.col("role") == "target")
        for folder in (chain.privacy, chain.oracle_privacy)
    )
    metrics = chain.privacy.metrics()
    for name in RATIOS:
        expected = memo.tofu_forget_quality(ours[name].to_list(), theirs[name].to_list())
        assert metrics[f"privacy/target.{name}.{memo.tofu_forget_quality.id}/report"] == expected
    aucs = [
        folder.metrics()[f"privacy/forget.{mia.membership_min_k_fixed.id}.{mia.auc.id}/report"]
        for folder in (chain.privacy, chain.oracle_privacy)
    ]
    expected = memo.muse_priv_leak(*aucs)
    assert metrics[f"privacy/forget.{LEAK}/report"] == pytest.approx(expected)


def test_without_an_oracle_nothing_is_compared(run):
    """What says something of the model alone stands; no number that needs the oracle does."""
    found = run(None, without_oracle=True)
    assert not any("forget_quality" in name or "priv_leak" in name for name in found)
    assert not any(mia.membership_reference.name in name for name in found)
    assert any(mia.auc.id in name for name in found) and any("tofu_prob" in name for name in found)


# --- the whole phase


def test_the_miniatures_questions(chain):
    """Exactly the reported, held-out plain questions of four roles, with rephrase's outputs."""
    items = read_frame(chain.rephrase.file("items.parquet")).to_dicts()
    expected = [
        (i["id"], i["output"]) for i in items
        if i["split"] == "report" and i["form"] == "question" and not i["seen"]
        and i["role"] in ROLES
    ]  # fmt: skip
    found = read_frame(chain.privacy.file("answers.parquet")).to_dicts()
    assert [(row["id"], row["output"]) for row in found] == expected
    assert {row["role"] for row in found} == set(ROLES)


def test_the_miniatures_scores(chain):
    """A question's probability is the model's own of its gold answer with the end token, a text's
    scores those of its stored log-probabilities: of a passage all but the first, of an answer its
    own and the end token's."""
    model, tokenizer = load_lm(chain.unlearn.subfolder("model"), CPU, training=True)
    asked = {
        item["id"]: item for item in read_frame(chain.rephrase.file("items.parquet")).to_dicts()
    }
    row = read_frame(chain.privacy.file("answers.parquet")).to_dicts()[0]
    item = asked[row["id"]]
    ids = tokenizer(f"{item['prompt']} {item['answer']}")["input_ids"] + [tokenizer.eos_token_id]
    start = len(tokenizer(item["prompt"])["input_ids"])
    with torch.no_grad():
        logs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    mean = np.mean([logs[at - 1, ids[at]].item() for at in range(start, len(ids))])
    assert row[memo.tofu_probability.id] == pytest.approx(np.exp(mean), rel=1e-4)
    members = {m["text"]: m for m in read_table(chain.prepared.file("members.parquet"))}
    texts = read_frame(chain.privacy.file("texts.parquet"))
    for form in ("passage", "question"):
        text = texts.filter(pl.col("form") == form).to_dicts()[0]
        count = len(tokenizer(text["text"])["input_ids"]) - 1
        if form == "question":
            prompt = members[text["text"]]["prompt"]
            count += 2 - len(tokenizer(prompt)["input_ids"])
        assert len(text["log_probs"]) == count
        assert text[mia.membership_loss.id] == pytest.approx(np.mean(text["log_probs"]))


def test_the_miniatures_texts(chain, mini_params):
    """Three corpora; gradients of as many as asked; a continuation of every passage."""
    table = pl.read_parquet(chain.privacy.file("texts.parquet"))
    counts = dict(table.group_by("corpus").len().iter_rows())
    assert counts["retain"] == mini_params.privacy.retain_texts
    norms = table.drop_nulls(mia.membership_gradient_norm.id)
    each = mini_params.privacy.gradient_texts
    assert dict(norms.group_by("corpus").len().iter_rows()) == {"forget": each, "holdout": each}
    written = table.filter(pl.col(memo.muse_verbatim.id).is_not_null())
    assert written["form"].unique().to_list() == ["passage"]
    assert len(written) == len(table.filter(pl.col("form") == "passage"))


def test_the_batch_size_that_was_used_is_kept(monkeypatch, run, tmp_path, chain, mini_params):
    """As asked, or what it was cut to: three times by half here. The results are the same."""

    def kept(folder):
        return json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))["batch_size"]

    def cut(*args, batch_size, **how):
        batch_size.halve()
        return score_answers(*args, batch_size=batch_size, **how)

    for module in (answers, texts):
        monkeypatch.setattr(module, "score_answers", cut)
    metrics = run(chain.oracle_privacy)
    size = mini_params.privacy.batch_size
    assert (kept(chain.privacy.folder), kept(tmp_path / "out")) == (size, size // 8)
    assert metrics == pytest.approx(chain.privacy.metrics(), rel=1e-3, abs=1e-6)


def test_a_ruined_model_leaves_no_result(monkeypatch, run, tmp_path, chain):
    """A logit that is not a number names its item."""
    model, tokenizer = load_lm(chain.unlearn.subfolder("model"), CPU, training=True)
    with torch.no_grad():
        next(model.parameters())[:] = float("nan")
    monkeypatch.setattr(privacy, "open_lm", lambda *_, **__: (model, tokenizer))
    with pytest.raises(EvaluationError, match=r"answers, item \d+: a logit is not finite"):
        run(chain.oracle_privacy)
    assert list(tmp_path.iterdir()) == []
