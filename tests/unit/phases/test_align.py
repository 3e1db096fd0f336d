import pytest
import torch
from machines import CPU

from atu.alignment.loop import AlignmentData, load_predictors
from atu.errors import ConfigError
from atu.models.predictor import CONFIG_FILE, WEIGHTS_FILE
from atu.phases import align
from atu.phases.align import make_predictor
from atu.results.artifacts import MANIFEST, Artifact, sha256


@pytest.fixture
def aligned(tmp_path, chain, mini_params):
    """A function that aligns on the miniature with changed settings."""

    def run(seed=0, where="align", **settings):
        section = mini_params.align.model_copy(update=settings)
        align.run(
            tmp_path / where / MANIFEST, section, CPU, seed, chain.full, chain.embed, chain.prepared
        )
        return Artifact.open(tmp_path / where / MANIFEST, "align")

    return run


def predictor_of(artifact):
    """The one predictor, of hook layer 2."""
    predictors = load_predictors(artifact)
    assert list(predictors) == [2]
    return predictors[2]


def test_the_predictor_has_the_sections_size(chain, mini_params):
    """From the model's hidden states (32) to the encoder's embeddings (384)."""
    config = predictor_of(chain.align).config
    section = mini_params.align
    assert (config.input_dim, config.output_dim) == (32, 384)
    for name in ("width", "layers", "heads", "feedforward", "dropout"):
        assert getattr(config, name) == getattr(section, name)


def test_every_step_is_traced_with_its_cosine(chain, mini_params):
    rows = chain.align.read_jsonl("trace.jsonl")
    assert [row["step"] for row in rows] == list(range(1, mini_params.align.steps + 1))
    assert all(row["cosine"] == pytest.approx(1 - row["loss"]) for row in rows)


@pytest.mark.parametrize(("share", "held_out"), [(0.1, 25), (0.5, 125), (0.001, 1)])
def test_held_out_texts_are_not_trained_on(monkeypatch, chain, aligned, share, held_out):
    """Of the miniature's 250 texts (244 forget, 6 retain): a tenth, a half, and never none. The
    constant is fitted on the same texts that the predictor was trained on."""
    data = AlignmentData.load(chain.embed.file("embeddings.safetensors"))
    assert len(data) == 250
    used = {"scored": []}
    train_predictor, evaluate = align.train_predictor, align.evaluate_alignment

    def spy_train(predictor, data, states, texts, *rest, **named):
        used["train"] = texts
        return train_predictor(predictor, data, states, texts, *rest, **named)

    def spy_evaluate(predictor, data, states, train, test):
        used["fitted"] = train
        used["scored"].append(test)
        return evaluate(predictor, data, states, train, test)

    monkeypatch.setattr(align, "train_predictor", spy_train)
    monkeypatch.setattr(align, "evaluate_alignment", spy_evaluate)
    aligned(held_out=share)
    train, test = used["scored"]
    assert used["train"] == used["fitted"] == train
    assert len(test) == held_out
    assert sorted(train + test) == list(range(250))


def test_texts_without_a_whole_window_are_refused():
    """Their mean would be no number. The third text has a window, at its second token."""
    empty = torch.empty(0, 4)
    numbers = [torch.tensor(row) for row in ([-1, -1], [-1], [-1, 0])]
    data = AlignmentData(empty, empty, [torch.zeros(2)] * 3, numbers)
    align.require_windows(data, {"training": [0, 2], "held-out": [2]})
    with pytest.raises(ConfigError, match="none of the 2 held-out texts is as long as a window"):
        align.require_windows(data, {"training": [2], "held-out": [0, 1]})


def test_skill_is_where_the_cosine_lies_above_the_constant(chain):
    """(cosine - constant) / (1 - constant), on both splits."""
    metrics = chain.align.metrics()
    for split in ("train", "held_out"):
        cosine, constant = (
            metrics[f"align/layer_2.cosine/{split}"],
            metrics[f"align/layer_2.constant_cosine/{split}"],
        )
        assert metrics[f"align/layer_2.skill/{split}"] == pytest.approx(
            (cosine - constant) / (1 - constant)
        )


def test_training_helps(aligned):
    """40 steps leave a higher cosine on held-out texts than one step does."""
    short, long = aligned(where="short", steps=1), aligned(where="long", steps=40)
    name = "align/layer_2.cosine/held_out"
    assert long.metrics()[name] > short.metrics()[name] + 0.1


@pytest.mark.parametrize(("seed", "same"), [(0, True), (1, False)])
def test_the_seed_decides_the_predictor(chain, aligned, seed, same):
    again = aligned(seed)
    assert (again.digest == chain.align.digest) is same
    assert again.cell["seed"] == seed
    first, second = (
        torch.cat([p.flatten() for p in predictor_of(a).parameters()]) for a in (chain.align, again)
    )
    assert torch.equal(first, second) is same


def test_every_hook_layer_has_a_predictor_of_its_own(chain, aligned, mini_params):
    """Each in its folder, trained on its own layer's states for all steps, whatever the order of
    the list and as if it were alone; scores carry the layer's number. All hold out the same texts,
    for which the constant is the same."""
    both = aligned(hook_layers=[2, 1])
    weights = {layer: both.file(f"layer-{layer}/{WEIGHTS_FILE}").read_bytes() for layer in (1, 2)}
    assert weights[1] != weights[2] == chain.align.file(f"layer-2/{WEIGHTS_FILE}").read_bytes()
    assert list(load_predictors(both)) == [1, 2]
    steps = mini_params.align.steps
    trace = [(row["stage"], row["step"]) for row in both.read_jsonl("trace.jsonl")]
    assert trace == [
        (f"align, layer {layer}", step + 1) for layer in (2, 1) for step in range(steps)
    ]
    metrics, alone = both.metrics(), chain.align.metrics()
    assert set(metrics) == {
        f"align/layer_{layer}.{name}/{split}"
        for layer in (1, 2)
        for name in ("cosine", "constant_cosine", "skill")
        for split in ("train", "held_out")
    }
    assert {name: metrics[name] for name in alone} == alone
    assert metrics["align/layer_1.cosine/held_out"] != metrics["align/layer_2.cosine/held_out"]
    constants = [metrics[f"align/layer_{n}.constant_cosine/held_out"] for n in (1, 2)]
    assert constants[0] == constants[1]


def test_predictors_come_in_the_order_of_their_layers(tmp_path, chain):
    """As numbers: 9 before 10. Nothing else in the folder is taken for one."""
    folder = tmp_path / "align"
    for layer in (10, 9):
        (folder / f"layer-{layer}").mkdir(parents=True)
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            content = chain.align.file(f"layer-2/{name}").read_bytes()
            (folder / f"layer-{layer}/{name}").write_bytes(content)
    (folder / "trace.jsonl").write_text("")
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*.*")]
    listed = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)}
        for name in names
    }
    opened = Artifact(folder, {"artifacts": listed}, "")
    assert list(load_predictors(opened)) == [9, 10]


@pytest.mark.parametrize("compat", [False, True])
def test_the_references_predictor_sees_the_future(mini_params, compat):
    section = mini_params.align.model_copy(update={"reference_compat": compat})
    predictor = make_predictor(section, 32, 384, 0).eval()
    assert predictor.config.sees_future is compat
    hidden = torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(0))
    changed = hidden.clone()
    changed[:, 3] += 1
    difference = (predictor(hidden) - predictor(changed))[:, :3].abs().max().item()
    assert (difference > 1e-4) is compat
