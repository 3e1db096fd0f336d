"""Properties of everything that reads what others wrote, and hostile inputs for them.

Each property takes one input, made by mutating a valid one, and says whether it was accepted or
refused; any exception but the declared ones is a crash. The unit tests run them at some hundred
inputs each, with hypothesis as the source of randomness, so that a crash is reduced to its least
input; `tests/fuzz.py` runs them at as many as one likes, with Python's own generator.
"""

import copy
import json
import math
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from random import Random
from typing import Any

import numpy as np
import polars as pl
import yaml
from gguf import GGUFWriter
from made import concept as made_concept

from atu.benchmarks import concept
from atu.benchmarks.shared.source import Reader
from atu.benchmarks.world import forms as worldforms
from atu.benchmarks.world import people as world
from atu.benchmarks.world import texts as worldtext
from atu.benchmarks.world.vocabulary import check_vocabulary, parse_vocabulary
from atu.config.load import check_values, load_params
from atu.errors import ArtifactError, ConfigError, SourceError, shown
from atu.forget.brought import Places, halves, read_brought
from atu.forget.settings import Writing
from atu.inference.lm_eval_files import KINDS, read_rows, write_benchmark
from atu.models.folders import check_model_folder
from atu.models.gguf_header import read_header
from atu.models.gguf_tokenizer import check_tokens
from atu.results.artifacts import MANIFEST, Artifact
from atu.results.jobs import write_folder
from atu.results.locks import Lock, Source
from atu.results.tables import PROBES, TEXTS, write_table
from atu.untrusted.targets import MAX_BYTES, Target, target_slug
from atu.untrusted.texts import parse_json
from atu.untrusted.yaml import parse_yaml

ROOT = Path(__file__).parents[1]
SHORT = (
    "none", "oracle", "atu", "ga", "", " ", "..", "../x", "/etc/passwd", "a/b", "a\\b", "a\0b",
    "a\nb", "\x1b[2J", "\u202eevil", "\ud800", "\u2028", "\uff0e\uff0e", "x" * 300, "é", "shared",
    "{name}", "{name.__class__}", "{0}", "{value:>999999999}", "{", "}", "$(touch x)",
    "'; rm -rf .", "-rf", "!!python/name:os.system", "1e999", "0x" + "f" * 80, "1:2:3",
    "2001-13-45", "NaN", "<<",
)  # fmt: skip
LEAVES = (
    *SHORT, None, True, False, 0, 1, -1, 2, 7, 8, 9, 2**31, 2**63, 2**64, 10**400, 0.0, -0.0, 0.5,
    1.0, 1e-300, 1e300, math.nan, math.inf, -math.inf, [], {}, [[]], [{}], {"": ""}, [None],
    ["a", "a"], [0, 0],
)  # fmt: skip
CHANGES = (0, 1, 1, 1, 1, 2, 2, 3, 5)
YAML_BITS = (
    "&a ", "*a", "<<: *a", "!!python/object/apply:os.system ['touch x']", "!!binary aGk=", "!!set ",
    "!!int x", "!!float x", "!!bool x", "!!omap ", "? [a]\n: b\n", "---\n", "...\n", "%YAML 9.9\n",
    "%TAG ! x\n", "[", "]", "{", "}", "[" * 200, "{a: " * 200, "- " * 200, "\t", "\0", "\ufeff",
    "'", '"', "|", ">", "#", ":", "- ", "\n", "  ",
    "0x" + "f" * 5000, "9" * 5000, "1:1:1:1",
    ".nan", ".inf", "2001-01-01", "2001-13-45", '"\\ud800"', '"\\0"', "a: 1\na: 2\n", "~", "=",
    "<<",
)  # fmt: skip
JSON_BITS = (
    "[" * 5000, '{"a":' * 5000, "NaN", "Infinity", "-Infinity", "1e999", "9" * 5000, '"\\ud800"',
    '"\\u0000"', "null", "[]", "{}", "]", "}", ",", ":", '"', '{"a":1,"a":2}', "\ufeff", "\0",
    "\u2028", "true", "-", "0", "1.5", " ",
)  # fmt: skip


def places(value):
    """Every `(container, key)` of a tree."""
    waiting, found = [value], []
    while waiting:
        at = waiting.pop()
        keys = list(at) if isinstance(at, dict) else range(len(at))
        for key in keys:
            found.append((at, key))
            if isinstance(at[key], (dict, list)):
                waiting.append(at[key])
    return found


def leaf(rng):
    """A hostile value, or any text or number."""
    kind = rng.randrange(8)
    if kind == 0:
        return noise(rng)
    if kind == 1:
        return rng.randrange(-(2**66), 2**66)
    if kind == 2:
        return rng.uniform(-10, 10)
    return copy.deepcopy(rng.choice(LEAVES))


def noise(rng):
    """A few characters from all of Unicode, halves of pairs among them."""
    tops = (0x80, 0x300, 0x2100, 0x10000, 0x110000)
    return "".join(chr(rng.randrange(rng.choice(tops))) for _ in range(rng.randrange(6)))


def mutate_tree(rng, value):
    """One change somewhere in the tree, in place."""
    spots = places(value)
    if not spots:
        return
    at, key = rng.choice(spots)
    kind = rng.choice(["set", "set", "set", "drop", "add", "move", "nudge", "wrap"])
    if kind == "set":
        at[key] = leaf(rng)
    elif kind == "drop":
        del at[key]
    elif kind == "add" and isinstance(at, dict):
        at[rng.choice(SHORT)] = copy.deepcopy(at[key])
    elif kind == "add":
        at.insert(key, copy.deepcopy(at[key]))
    elif kind == "move":
        other, where = rng.choice(spots)
        at[key] = copy.deepcopy(other[where])
    elif kind == "nudge":
        at[key] = nudged(rng, at[key])
    else:
        at[key] = rng.choice([[at[key]], {"choices": at[key]}, {"a": at[key]}])


def nudged(rng, value):
    """Nearly the same value."""
    if isinstance(value, str):
        cut = rng.randint(0, len(value))
        return value[:cut] + rng.choice(SHORT) + value[cut:]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return rng.choice([value + 1, value - 1, -value, value * 1000, value // 2])
    return shown(value)


def tree(rng, *bases):
    """A base after up to five changes."""
    value = copy.deepcopy(rng.choice(bases))
    for _ in range(rng.choice(CHANGES)):
        mutate_tree(rng, value)
    return value


def text(rng, bits, *bases):
    """A base text after up to five cuts, copies and insertions."""
    found = rng.choice(bases)
    for _ in range(rng.choice(CHANGES)):
        first, second = sorted(rng.randint(0, len(found)) for _ in range(2))
        kind = rng.choice(["insert", "insert", "cut", "copy", "noise"])
        if kind == "insert":
            found = found[:first] + rng.choice(bits) + found[first:]
        elif kind == "cut":
            found = found[:first] + found[second:]
        elif kind == "copy":
            found = found[:second] + found[first : first + 200] + found[second:]
        else:
            found = found[:first] + noise(rng) + found[first:]
    return found


def json_of(rng, value):
    """A tree as JSON, a third of the time damaged as a text too."""
    dumped = json.dumps(value)
    return dumped if rng.randrange(3) else text(rng, JSON_BITS, dumped)


@cache
def full_params():
    """The shipped parameters with the miniature's values."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    values["search"]["spaces"] = {
        "ga": {"learning_rate": {"low": 1.0e-6, "high": 1.0, "log": True}},
        "rmu": {"steps": {"choices": [values["unlearn"]["methods"]["rmu"]["steps"], 2]}},
    }
    values["utility"]["benchmarks"] = {
        "own": {"kind": "hub", "path": "x"},
        "file": {"kind": "mmlu", "path": str(ROOT / "pyproject.toml")},
    }
    return values


@cache
def small_params():
    """As few entries as an experiment can have: most of the mutations then hit what is checked."""
    values = copy.deepcopy(full_params())
    values["grid"] |= {"methods": ["none", "oracle"], "attacks": []}
    values["report"]["compare"] = "none"
    values["unlearn"]["methods"] = {"none": {"loss": "none"}, "oracle": {"loss": "oracle"}}
    values["attack"]["attacks"] = {}
    values["search"]["spaces"] = {}
    values["utility"]["benchmarks"] = {}
    return values


@cache
def tiny_vocabulary():
    """The least that is in order."""
    few, many = ["{name}, {value}", "{value}"], [f"{{name}} {i}" for i in range(8)]
    asked = {"statements": [*few, "a"], "questions": many, "clause": "is {value}"}
    asked |= {"synonyms": few, "translations": few}
    values = {"values": [*"abcdef"]}
    own = {"unique": True, "compose": [[*"abcd"], [*"efgh"]]}
    return {
        "names": {
            "given_start": [*"ABCD"], "given_end": [*"efgh"],
            "family_start": [*"IJKL"], "family_end": [*"mnop"],
        },
        "attributes": {"a": values | asked, "b": own | asked, "c": own | asked, "d": own | asked},
        "relations": {k: {"symmetric": True} | asked for k in ("spouse", "colleague")},
        "reverse_questions": ["{first} {second}", "{second}"],
        "general": {
            "places": [*"uvwxyz"],
            "facts": {"e": values | {"statements": few, "questions": many[:4]}},
        },
    }  # fmt: skip


@cache
def vocabulary():
    """The shipped vocabulary with fewer attributes."""
    values = copy.deepcopy(world.vocabulary())
    kept = ("birthplace", "pet", "dish", "book")
    values["attributes"] = {key: values["attributes"][key] for key in kept}
    return values


ROWS = {
    "mmlu": [
        {"question": "Red?", "choices": ["a", "b", "c"], "answer": 1, "task": "t",
         "examples": [{"question": "Owl?", "choices": ["a", "b"], "answer": "0"}]},
        {"question": "How many?", "choices": ["1", "2", "3", "4"], "answer": "3"},
    ],
    "bbh": [{"task": "t", "cot": "Q: one?\nA: (A).", "question": "two?", "answer": "(B)"}],
    "truthfulqa": [
        {"question": "Do owls read?", "mc1_targets": {"choices": ["no", "yes"], "labels": [0, 1]},
         "mc2_targets": {"choices": ["x"], "labels": [1]}},
    ],
    "triviaqa": [
        {"question": "River?", "answers": ["The Wyst", "Wyst"]},
        {"question": "Bird?", "answers": "Owl"},
    ],
}  # fmt: skip


class Scratch:
    """A folder in memory where there is one, and a job's folder in it."""

    def __init__(self):
        shared = Path("/dev/shm")
        self._held = tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None)
        self.folder = Path(self._held.name)
        self.manifest = self.folder / "job" / MANIFEST
        with write_folder(self.manifest, "align", cell={"seed": 0}, params={}, inputs={}) as job:
            job.path("model/config.json").write_text("{}")
            job.path("trace.jsonl").write_text('{"step": 1}\n')
            job.metrics = {"align/skill/all": 0.5}
        self.good = json.loads(self.manifest.read_text())


@cache
def scratch():
    """One for the whole process, removed with it."""
    return Scratch()


def judged(act, *errors):
    """Whether an action went through or was refused as declared."""
    try:
        act()
    except errors as error:
        str(error).encode("utf-8", "backslashreplace")
        return "refused"
    return "accepted"


def config_text(text):
    """`atu check` on a file of these bytes."""
    path = scratch().folder / "params.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return judged(lambda: load_params(path), ConfigError)


def config_tree(values):
    """What `atu check` does after parsing; what it accepts can be stored in a manifest."""

    def act():
        params = check_values(values)
        for phase in ("grid", "pretrain", "search", "unlearn", "attack"):
            json.dumps(params.section(phase), allow_nan=False)

    return judged(act, ConfigError)


def overlay_tree(values):
    """`atu check` on an overlay over the small experiment."""
    scratch().folder.joinpath("small.yaml").write_text(dumped(small_params), encoding="utf-8")
    return config_text(json.dumps(values))


OVERLAY = {
    "experiment": "x", "base": "small",
    "keep": {"unlearn.methods": ["none", "oracle"], "search.spaces": []},
    "grid": {"seeds": [1]}, "align": {"steps": 2, "hook_layers": [1]},
}  # fmt: skip


def yaml_text(text):
    """The strict reader refuses, or reads the same as PyYAML's safe loader."""
    try:
        value = parse_yaml(text)
    except ValueError:
        return "refused"
    assert repr(value) == repr(yaml.safe_load(text))
    return "accepted"


def json_text(text):
    """The strict reader refuses, or reads the same as the standard library."""
    try:
        value = parse_json(text)
    except ValueError:
        return "refused"
    assert repr(value) == repr(json.loads(text))
    return "accepted"


def target_name(name):
    """A target's folder stands in the results folder, directly, and its name needs no quoting."""
    try:
        slug = target_slug(name)
    except ValueError:
        return "refused"
    path = PurePosixPath("results/x/prepare") / slug
    assert path.parts[:-1] == ("results", "x", "prepare")
    assert slug not in (".", "..") and len(slug.encode()) <= MAX_BYTES
    assert not set(slug) & set("/\\\0\n'\"$`;&|<>(){}*?![]~# ")
    return "accepted"


def world_text(text):
    """`world.yaml` as a text."""
    return judged(lambda: parse_vocabulary(text), ConfigError)


def world_tree(case):
    """A world drawn from a vocabulary, two of whose facts are asked in every form."""
    values, seed, people, holdout = case

    def act():
        check_vocabulary(values)
        kept = world.vocabulary, worldforms.vocabulary
        world.vocabulary = worldforms.vocabulary = lambda: values
        try:
            drawn = world.build_world(seed, people, holdout)
            facts = (*drawn.about(drawn.people[0]), drawn.general[0], *drawn.holdout_facts[:1])
            for fact in (facts[seed % len(facts)], facts[-1]):
                worldtext.probes(drawn, fact, "target", seed)
        finally:
            world.vocabulary, worldforms.vocabulary = kept

    return judged(act, ConfigError)


def benchmark(case):
    """A file of RWKU's schema; what is accepted is a task whose documents lm-eval can ask."""
    kind, text = case
    source, folder = scratch().folder / "rows.json", scratch().folder
    source.write_bytes(text.encode("utf-8", "surrogatepass"))

    def act():
        rows = read_rows(source, "key")[:4]
        task = write_benchmark(folder, "given", kind, rows, len(rows), "key", str(source))
        documents = pl.read_parquet(folder / f"{task}.parquet").to_dicts()
        assert len(documents) == len(rows)
        for number, document in enumerate(documents):
            assert document["id"] == number and isinstance(document["prompt"], str)
            if KINDS[kind].generates:
                assert isinstance(document["answer"], str)
            else:
                assert document["gold"] in range(len(document["choices"]))

    return judged(act, ConfigError)


def concept_folder(case):
    """A folder for the benchmark `concept` with one hostile file; what is accepted is storable."""
    name, content = case
    folder, rows = scratch().folder / "concept", small_concept()
    folder.mkdir(exist_ok=True)
    for other in rows:
        text_of_it = content if other == name else json.dumps(rows[other])
        (folder / other).write_bytes(text_of_it.encode("utf-8", "surrogatepass"))
    source = Source(str(folder), None, "-.json")

    def act():
        readers = {"source": Reader(source, Lock(), record=True)}
        settings = concept.Settings("concept", source, 0.5)
        found = concept.prepare(settings, Target((made_concept.ANN,)), [], readers)
        write_table(folder / "forget.parquet", found.forget, TEXTS)
        write_table(folder / "retain.parquet", found.retain, TEXTS)
        write_table(folder / "probes.parquet", found.probes, PROBES)

    return judged(act, SourceError)


@cache
def small_concept():
    """Its files with a few rows each."""
    return {name: rows[:3] for name, rows in made_concept.files().items()}


def concept_case(rng):
    """A file's name, and what stands in it."""
    name = rng.choice(sorted(small_concept()))
    return name, json_of(rng, tree(rng, small_concept()[name]))


BROUGHT = {
    "texts.txt": "Ann sings.\r\nShe has a cat.", "texts.jsonl": {"text": "Ann sings.", "id": 1},
    "questions.jsonl": {"question": "Who?", "answer": "Ann", "paraphrases": ["Who is it?"],
                        "wrong": ["Bo"], "about": "Ann"},
}  # fmt: skip


def brought(case):
    """A file of a user's texts or questions; what is read of it can be written as UTF-8."""
    name, content = case
    path = scratch().folder / name
    path.write_bytes(content)

    def act():
        asks = name.startswith("questions")
        places = Places((), (), path) if asks else Places((path,))
        found = read_brought(places, ["Ann"], Writing())
        texts = found.texts.texts if found.texts else ()
        json.dumps([found.rows, texts, found.digests], ensure_ascii=False).encode()
        assert all(text.strip() and halves(text, len, 64) for text in texts)
        assert found.rows or texts

    return judged(act, SourceError, ArtifactError)


def brought_case(rng):
    """A file's name and its bytes: rows with a change, in some encoding, some bytes replaced."""
    name = rng.choice(sorted(BROUGHT))
    good = BROUGHT[name]
    lines = text(rng, JSON_BITS, str(good)) if name == "texts.txt" else "\n".join(
        json_of(rng, tree(rng, good)) if rng.random() < 0.5 else json.dumps(good) for _ in "ab"
    )  # fmt: skip
    encoding = rng.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"))
    content = bytearray(lines.encode(encoding, "surrogatepass"))
    for _ in range(rng.choice((0, 0, 1, 3))):
        at = rng.randrange(len(content) + 1)
        content[at : at + rng.randrange(3)] = rng.randbytes(1)
    return name, bytes(content)


def manifest(content):
    """A job's folder with this manifest, opened and read as the phases do."""
    path = scratch().manifest
    path.write_bytes(content.encode("utf-8", "surrogatepass"))

    def act():
        artifact = Artifact.open(path, "align")
        for name in list(artifact.manifest["artifacts"]):
            assert artifact.file(name).resolve().is_relative_to(artifact.folder.resolve())
        artifact.subfolder("model")
        artifact.metrics()
        artifact.read_jsonl("trace.jsonl")

    return judged(act, ArtifactError)


def model_folder(case):
    """A model folder with this configuration and index of weights."""
    folder = scratch().folder / "lm"
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").touch()
    for name, content in zip(("config.json", "model.safetensors.index.json"), case, strict=True):
        (folder / name).write_bytes(content.encode("utf-8", "surrogatepass"))
    return judged(lambda: check_model_folder(folder), ArtifactError)


def gguf(content):
    """A GGUF file: what is accepted lies within the file, and has a vocabulary that fits."""
    path = scratch().folder / "tiny.gguf"
    path.write_bytes(content)

    def act():
        header = read_header(path)
        check_tokens(header)
        assert header.tokens and all(isinstance(token, str) for token in header.tokens)
        for tensor in header.tensors.values():
            assert tensor.offset < len(content) and math.prod(tensor.shape) < 8 * len(content)

    return judged(act, ArtifactError)


@cache
def small_gguf():
    """A valid file of a few hundred bytes."""
    path = scratch().folder / "valid.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(["<s>", "a", "b", "ab", "é"])
    writer.add_token_types([3, 1, 1, 1, 1])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(0)
    writer.add_tensor("token_embd.weight", np.ones((5, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


NUMBERS = (0, 1, 3, 8, 9, 255, 10**6, 2**31, 2**32 - 1, 2**60, 2**63, 2**64 - 1)
"""Of counts, lengths, types and offsets."""


def broken_bytes(rng):
    """The valid file after a few changes: numbers, bytes, cuts, copies."""
    data = bytearray(small_gguf())
    for _ in range(rng.choice(CHANGES)):
        at, kind = (
            rng.randrange(len(data) + 1),
            rng.choice(["number", "number", "byte", "cut", "copy"]),
        )
        if kind == "number":
            size = rng.choice([1, 4, 8])
            data[at : at + size] = (rng.choice(NUMBERS) % 256**size).to_bytes(size, "little")
        elif kind == "byte":
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == "cut":
            del data[at : at + rng.choice([1, 8, 100, 10**6])]
        else:
            data[at:at] = data[at : at + rng.choice([1, 8, 100])]
    return bytes(data)


CONFIG = {
    "model_type": "llama", "hidden_size": 16, "num_hidden_layers": 2, "auto_map": None,
    "attn_implementation": "eager", "rope_parameters": {"rope_type": "default"},
}  # fmt: skip
INDEX = {"metadata": {"total_size": 1}, "weight_map": {"a": "model.safetensors", "b": "b.json"}}


@cache
def dumped(make):
    """What a function gives, as YAML."""
    return yaml.safe_dump(make(), allow_unicode=False, sort_keys=False)


def world_case(rng):
    """Most vocabularies and numbers nearly in order."""
    seed, people = rng.randrange(2**31), rng.choice([8, 8, 8, 10, 20, rng.randrange(-3, 400)])
    shape = tree(rng, tiny_vocabulary(), tiny_vocabulary(), vocabulary())
    return shape, seed, people, rng.choice([1, 2, rng.randrange(200)])


def benchmark_case(rng):
    """A kind of file, and rows of it."""
    kind = rng.choice(sorted(ROWS))
    return kind, json_of(rng, tree(rng, ROWS[kind]))


@dataclass(frozen=True)
class Property:
    """How an input is made from a source of randomness, and what must hold of it."""

    make: Callable[[Random], Any]
    check: Callable[[Any], str]
    share: float
    """Of the time of a run at depth."""


PROPERTIES = {
    "config_text": Property(
        lambda rng: text(rng, YAML_BITS, dumped(small_params)), config_text, 3
    ),
    "config_tree": Property(lambda rng: tree(rng, small_params(), full_params()), config_tree, 3),
    "overlay_tree": Property(lambda rng: tree(rng, OVERLAY), overlay_tree, 1),
    "yaml_text": Property(
        lambda rng: text(rng, YAML_BITS, "a: 1\nb: [x, y]\n", "k:\n- &a {b: 1}\n- *a\n"),
        yaml_text, 2,
    ),
    "world_text": Property(
        lambda rng: text(rng, YAML_BITS, dumped(tiny_vocabulary)), world_text, 2
    ),
    "world_tree": Property(world_case, world_tree, 2),
    "benchmark": Property(benchmark_case, benchmark, 3),
    "concept_folder": Property(concept_case, concept_folder, 1),
    "brought": Property(brought_case, brought, 1),
    "manifest": Property(lambda rng: json_of(rng, tree(rng, scratch().good)), manifest, 1),
    "model_folder": Property(
        lambda rng: (json_of(rng, tree(rng, CONFIG)), json_of(rng, tree(rng, INDEX))),
        model_folder, 1,
    ),
    "gguf": Property(broken_bytes, gguf, 1),
    "json_text": Property(
        lambda rng: text(rng, JSON_BITS, '{"a": [1, 2.5, "x"], "b": {"c": null}}', "[]"),
        json_text, 0.3,
    ),
    "target_name": Property(
        lambda rng: text(rng, SHORT, "Ann Lee", noise(rng)), target_name, 0.1
    ),
}  # fmt: skip


class Tally(Counter):
    """How many inputs each property was given, and what came of them: counted as they run."""

    def run(self, name, case):
        """Run a property on one input and count it."""
        self[name, "given"] += 1
        self[name, PROPERTIES[name].check(case)] += 1
