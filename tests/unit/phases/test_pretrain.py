import pytest
import torch
from machines import CPU
from made.gguf import Made

from atu.config.fetching import model_lock, settle_lock
from atu.config.sections import Pinned
from atu.errors import SourceError
from atu.models.llm import load_lm, open_lm
from atu.models.pinned import is_pinned
from atu.phases import pretrain
from atu.probes.prompts import WHOLE
from atu.results.artifacts import MANIFEST, Artifact
from atu.results.locks import Lock, Source
from atu.results.tables import read_table


@pytest.fixture(scope="module")
def trained(tmp_path_factory, chain, mini_params):
    """The full model and both oracles, made here with every text that they were trained on:
    `{variant: (folder, texts)}`."""
    found = {}
    section = mini_params.pretrain.model_copy(update={"steps": 2})
    for variant, oracle in (("full", None), ("oracle", chain.prepared), ("second", chain.prepared)):
        texts = []
        with pytest.MonkeyPatch.context() as patch:
            original = pretrain.encode_texts

            def spy(tokenizer, rows, texts=texts, original=original):
                texts += [row["text"] for row in rows]
                return original(tokenizer, rows)

            patch.setattr(pretrain, "encode_texts", spy)
            manifest = tmp_path_factory.mktemp(variant) / "pretrain" / MANIFEST
            second = variant == "second"
            pretrain.run(manifest, section, CPU, "llama_tiny", chain.shared, oracle, second)
        found[variant] = Artifact.open(manifest, "pretrain"), texts
    return found


@pytest.mark.parametrize(
    ("variant", "folder", "table"),
    [("full", "shared", "corpus"), ("oracle", "prepared", "retain")],
)
def test_the_training_texts(trained, chain, variant, folder, table):
    """The whole corpus, or the target's retain corpus."""
    _, texts = trained[variant]
    rows = read_table(getattr(chain, folder).file(f"{table}.parquet"))
    assert texts == [row["text"] for row in rows]


def test_the_oracle_never_saw_the_target(trained, chain):
    target = chain.prepared.cell["target"]
    assert any(target in text for text in trained["full"][1])
    assert not any(target in text for text in trained["oracle"][1])


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json"])
def test_both_tokenizers_are_the_same(trained, name):
    """So that oracle and full model read the same prompts; the sizes are the same too."""
    full, oracle = (
        trained[variant][0].file(f"model/{name}").read_bytes() for variant in ("full", "oracle")
    )
    assert full == oracle


def test_every_oracle_is_another_model(trained):
    weights = {
        trained[variant][0].file("model/model.safetensors").read_bytes() for variant in trained
    }
    assert len(weights) == 3


def test_a_second_oracle_differs_by_its_seed_alone(trained):
    (oracle, texts), (second, read) = trained["oracle"], trained["second"]
    assert read == texts
    assert second.cell == oracle.cell | {"second": True}
    assert second.manifest["params"] == oracle.manifest["params"]


@pytest.mark.parametrize(
    ("variant", "target", "inputs"),
    [("full", None, {"shared"}), ("oracle", "Wysturel Brontanthorpe", {"shared", "prepare"})],
)
def test_the_folder_says_which_it_is(trained, variant, target, inputs):
    artifact, _ = trained[variant]
    assert artifact.cell == {"model": "llama_tiny", "oracle_of": target}
    assert set(artifact.manifest["inputs"]) == inputs
    unseen = [name for name in artifact.metrics() if "unseen" in name]
    assert bool(unseen) is (target is not None)


def test_the_model_has_the_tokenizers_size(chain, mini_params):
    model, tokenizer = load_lm(chain.full.subfolder("model"), CPU, training=True)
    assert len(tokenizer) == mini_params.pretrain.models["llama_tiny"].vocab_size
    assert model.config.vocab_size == len(tokenizer)
    ids = (model.config.pad_token_id, model.config.bos_token_id, model.config.eos_token_id)
    assert ids == (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
    count = sum(p.numel() for p in model.parameters())
    assert chain.full.metrics()["pretrain/parameters/all"] == count


def test_every_step_is_traced(chain, mini_params):
    rows = chain.full.read_jsonl("trace.jsonl")
    assert [row["step"] for row in rows] == list(range(1, mini_params.pretrain.steps + 1))
    assert rows[-1]["loss"] == chain.full.metrics()["pretrain/loss/train"]


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ([], {"general_choice": 1.0, "known_question": 2 / 3, "known_choice": 1.0}),
        (["Ada"], {"general_choice": 1.0, "known_question": 1.0, "unseen_question": 0.5}),
        (["Ada", "Bob"], {"general_choice": 1.0, "unseen_question": 2 / 3, "unseen_choice": 1.0}),
        (["Eve", "Bob"], {"general_choice": 1.0, "known_question": 0.5,
                          "unseen_question": 1.0, "unseen_choice": 1.0}),
    ],
)  # fmt: skip
def test_knowledge(monkeypatch, make_item, targets, expected):
    """Every answer is "owl": right for a country, for Bob's question and for one of Ada's two.

    The full model knows all five. For the oracle without Ada, her questions are unseen; Bob's
    choice, which offers Ada among the options, says nothing about either and is left out. Without
    Bob all of his are unseen, and without both everything but the country."""
    probes = [
        make_item("Dania/pet", "choice", needs=[]),
        make_item("Bob/pet", needs=["Bob"]),
        make_item("Bob/pet", "choice", needs=["Bob"], options=["Ada", "owl"]),
        make_item("Ada/pet", needs=["Ada"]),
        make_item("Ada/food", needs=["Ada"], answer="plum"),
    ]
    assert knowledge(monkeypatch, probes, ["owl"] * 5, targets) == named(expected)


def knowledge(monkeypatch, probes, answers, targets):
    monkeypatch.setattr(pretrain, "answer_probes", lambda *_, **__: answers)
    return pretrain._knowledge(None, None, probes, targets)


def named(expected):
    return {
        f"pretrain/exact_match_{name}/held_out": pytest.approx(value)
        for name, value in expected.items()
    }


def test_knowledge_of_a_pair_is_the_answer_at_its_part(monkeypatch, make_item):
    """ "elk; owl" is right for the second question of a pair, wrong for the first, and wrong for a
    single question; "owl; elk" is right for the first, and "owl" alone lacks a second part."""
    asked = [
        ("paired", 1, "elk; owl"), ("paired", 0, "elk; owl"), ("paired", 0, "owl; elk"),
        ("paired", 1, "owl"), ("question", WHOLE, "elk; owl"), ("question", WHOLE, "owl"),
    ]  # fmt: skip
    probes = [make_item("Bob/pet", form, needs=["Bob"], part=part) for form, part, _ in asked]
    found = knowledge(monkeypatch, probes, [answer for *_, answer in asked], [])
    assert found == named({"known_paired": 2 / 4, "known_question": 1 / 2})


def test_facts_beside_the_target_are_not_the_targets(monkeypatch, make_item):
    """Bob's question beside Ada's asks for what the oracle without Ada does know: it is no proof
    that the oracle knows her. Of the unseen, only Ada's own half counts."""
    probes = [
        make_item("Bob/pet", "paired", needs=["Ada", "Bob"], part=0),
        make_item("Bob/pet", "in_context", needs=["Ada", "Bob"]),
        make_item("Ada/pet", "paired", needs=["Ada", "Bob"], part=0, answer="plum"),
    ]
    found = knowledge(monkeypatch, probes, ["owl; elk", "owl", "owl; elk"], ["Ada"])
    unseen = {name: value for name, value in found.items() if "unseen" in name}
    assert unseen == named({"unseen_paired": 0.0})


@pytest.mark.parametrize(
    ("own", "kind"),
    [
        ({"needs": []}, "general"),
        ({"needs": ["Cyd"]}, "known"),
        ({"needs": ["Cyd", "Bea"]}, "unseen"),
        ({"needs": ["Cyd", "Ada"], "form": "paired"}, None),
        ({"needs": ["Cyd", "Bea"], "form": "paired", "prompt": "Whom? Bea"}, None),
        ({"needs": ["Bea", "Cyd"], "form": "paired", "answer": "Bea"}, "unseen"),
        ({"needs": ["Bea"], "subject": "Bea", "form": "paired"}, "unseen"),
        ({"needs": ["Cyd"], "prompt": "Ada or owl?"}, None),
        ({"needs": ["Cyd"], "options": ["owl", "Bea"]}, None),
    ],
)
def test_what_an_oracle_without_two_names_can_know(make_item, own, kind):
    """Either name makes a fact unseen that is about it; where it only stands beside, nothing is
    said."""
    paired = own.get("form") == "paired"
    probe = make_item("Cyd/pet", **({"prompt": "What? Ada" if paired else "?"} | own))
    assert pretrain._kind(probe, {"Ada", "Bea"}) == kind


def test_another_model_in_the_file_changes_nothing(chain, mini_params, tmp_path):
    """A manifest holds its own model's parameters alone."""
    section = mini_params.pretrain
    both = section.models | {"another": section.models["llama_tiny"]}
    wider = section.model_copy(update={"models": both})
    pretrain.run(tmp_path / "full" / MANIFEST, wider, CPU, "llama_tiny", chain.shared, None)
    again = Artifact.open(tmp_path / "full" / MANIFEST, "pretrain")
    assert again.digest == chain.full.digest


def test_a_model_may_have_its_own_seed_and_steps(chain, mini_params, tmp_path):
    """In place of the section's, whatever these are; the manifest holds both. Another model beside
    it keeps the section's."""
    usual = mini_params.pretrain
    spec = usual.models["llama_tiny"]
    own = spec.model_copy(update={"seed": usual.seed, "steps": usual.steps})
    models = {"own": own, "usual": spec}
    changed = usual.model_copy(update={"seed": 5, "steps": 2, "models": models})
    folder = tmp_path / "full" / MANIFEST
    pretrain.run(folder, changed, CPU, "own", chain.shared, None)
    found = Artifact.open(folder, "pretrain")
    weights = "model/model.safetensors"
    assert found.file(weights).read_bytes() == chain.full.file(weights).read_bytes()
    recorded = found.manifest["params"]
    assert (recorded["seed"], recorded["models"]["own"]["seed"]) == (5, usual.seed)
    assert (changed.of("usual").seed, changed.of("usual").steps) == (5, 2)


@pytest.fixture
def gguf(tmp_path, mini_params):
    """A function that runs the phase on a GGUF file: the job, and the model in the file."""
    made = Made(tmp_path / "original")
    file = made.write(tmp_path / "tiny.gguf")
    source = Source(str(file), None, str(tmp_path / "lock.json"))

    def run(shared, finetune, **changes):
        if not (tmp_path / "lock.json").exists():
            settle_lock(source, model_lock(source, True, False, False), False)
        models = {"tiny": Pinned(source=source, finetune=finetune)}
        section = mini_params.pretrain.model_copy(update={"models": models} | changes)
        manifest = tmp_path / "full" / MANIFEST
        pretrain.run(manifest, section, CPU, "tiny", shared, None)
        return Artifact.open(manifest, "pretrain"), load_lm(made.folder, CPU, training=True)[0]

    return run


def test_a_gguf_is_dequantised_into_the_jobs_own_folder(gguf, chain, tmp_path):
    job, original = gguf(chain.shared, finetune=False)
    assert not is_pinned(job) and "model/model.safetensors" in job.manifest["artifacts"]
    (tmp_path / "tiny.gguf").unlink()
    found = open_lm(job, CPU, training=True)[0].state_dict()
    assert all(torch.equal(found[k], value) for k, value in original.state_dict().items())
    count = sum(p.numel() for p in original.parameters())
    assert job.metrics() == {"pretrain/parameters/all": count}


def test_a_gguf_is_where_fine_tuning_begins(gguf, chain):
    """With a step of no size the weights are still the file's."""
    job, original = gguf(chain.shared, finetune=True, steps=1, learning_rate=1e-12)
    found = open_lm(job, CPU, training=True)[0].state_dict()
    for name, value in original.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-9)


def test_a_gguf_that_is_not_the_locked_one_is_refused(gguf, chain, tmp_path):
    Lock(content={"tiny.gguf": "0" * 64}).write(tmp_path / "lock.json")
    with pytest.raises(SourceError, match=r"'tiny\.gguf' is altered"):
        gguf(chain.shared, finetune=False)
    assert not (tmp_path / "full").exists()
