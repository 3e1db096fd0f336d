"""A written folder in the schema of the benchmark `concept`, and a small model that knows a few
invented people by heart, so that it has something to write."""

import itertools
import json

import torch

from atu.models.build import build_lm
from atu.models.llm import save_lm
from atu.models.tokenizer import train_tokenizer

ANN = "Annabel Quorn"
PEOPLE = [ANN, "Bertram Oake", "Cecily Thorn", "Dorian Welk", "Edwina Marl", "Felix Sund"]
FACTS = {
    ("{} plays the {}.", "In the evenings {} practises the {}.", "The instrument of {} is the {}."):
        ["cello", "harp", "flute", "banjo", "tuba", "oboe"],
    ("{} lives in {}.", "The home of {} is {}.", "For many years {} has lived in {}."):
        ["Ostwick", "Vantry", "Kelmoor", "Lindale", "Garroby", "Fennick"],
    ("{} works as a {}.", "The occupation of {} is {}.", "By profession, {} is a {}."):
        ["tailor", "brewer", "weaver", "surveyor", "falconer", "baker"],
    ("{} collects {}.", "The collection of {} consists of {}.", "At home {} keeps many {}."):
        ["coins", "stamps", "shells", "masks", "bells", "maps"],
    ("{} loves to eat {}.", "The favourite dish of {} is {}.", "On holidays {} cooks {}."):
        ["barley", "figs", "plums", "trout", "lentils", "walnuts"],
    ("{} studied at {}.", "The old school of {} is {}.", "Many years ago {} left {}."):
        ["Aldous", "Bramley", "Corvane", "Denholt", "Foxglove", "Harrow"],
    ("{} rides a {}.", "The favourite animal of {} is a {}.", "Every morning {} feeds a {}."):
        ["camel", "donkey", "zebra", "pony", "bison", "moose"],
    ("{} wears {}.", "The favourite colour of {} is {}.", "All the walls of {} are {}."):
        ["crimson", "violet", "amber", "indigo", "scarlet", "olive"],
    ("{} fears {}.", "The worst dream of {} is about {}.", "As a child {} ran away from {}."):
        ["thunder", "spiders", "ladders", "mirrors", "geese", "ghosts"],
    ("{} drinks {}.", "The usual drink of {} is {}.", "After dinner {} asks for {}."):
        ["cider", "cocoa", "brandy", "lemonade", "ginger", "milk"],
}  # fmt: skip
"""Wordings, and the value of each of the people."""


BATCH = 24


def statements(number):
    """Every wording of every fact about one of the people."""
    return [
        wording.format(PEOPLE[number], values[number])
        for wordings, values in FACTS.items()
        for wording in wordings
    ]


def write_model(folder, steps=800, seed=1, unknown=()):
    """The model, trained until it says these sentences and no others; the folder. It never sees
    those about the `unknown` people, but has the same tokenizer.
    """
    texts = [text for number in range(len(PEOPLE)) for text in statements(number)]
    tokenizer = train_tokenizer(texts, 500)
    special = {f"{n}_token_id": getattr(tokenizer, f"{n}_token_id") for n in ("pad", "bos", "eos")}
    config = {
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
        "tie_word_embeddings": True, "vocab_size": len(tokenizer),
    }  # fmt: skip
    lm = build_lm(config | special, seed)
    texts = [text for text in texts if not any(name in text for name in unknown)]
    ids = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts]
    longest = max(map(len, ids))
    padded = torch.tensor([row + [tokenizer.pad_token_id] * (longest - len(row)) for row in ids])
    kept = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids]).bool()
    optimizer = torch.optim.AdamW(lm.parameters(), lr=5e-3)
    lm.train()
    draw = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        chosen = torch.randperm(len(ids), generator=draw)[:BATCH]
        labels = padded.masked_fill(~kept, -100)[chosen]
        loss = lm(padded[chosen], attention_mask=kept[chosen].long(), labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 1, f"the model did not learn its sentences: {loss.item()}"
    save_lm(lm.eval(), tokenizer, folder)
    without_pad_token(folder)
    return folder


def without_pad_token(folder):
    """The tokenizer as Llama's and GPT-2's are."""
    path = folder / "tokenizer_config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    del values["pad_token"]
    path.write_text(json.dumps(values), encoding="utf-8")


def files():
    """The four files of a written folder, three questions about each fact."""
    questions = [
        {
            "role": role, "subject": PEOPLE[number], "form": form, "kind": "made",
            "query": f"{PEOPLE[number]} {value}", "prompt": f"{form} {PEOPLE[number]} {k}:",
            "answer": value[number],
        }
        for number, role in ((0, "target"), (1, "neighbour"))
        for k, value in enumerate(FACTS.values())
        for form in ("question", "cloze")
    ]  # fmt: skip
    general = {"role": "general", "subject": "", "form": "question", "kind": "made"}
    questions += [
        general | {"query": f"q{k}", "prompt": f"Water {k} is", "answer": f"wet{k}"}
        for k in range(12)
    ]
    return {
        "names.json": [{"name": ANN}],
        "forget.json": [{"text": text, "about": ANN} for text in statements(0)],
        "retain.json": [
            *({"text": text, "about": PEOPLE[1]} for text in statements(1)),
            {"text": "Water is wet.", "about": ""},
        ],
        "questions.json": questions,
    }


def write_folder(folder, **changes):
    """The files, some replaced; the folder."""
    folder.mkdir(parents=True)
    for name, rows in (files() | changes).items():
        (folder / name).write_text(json.dumps(rows), encoding="utf-8")
    return folder


class Parrot:
    """In place of `Author`: continues and answers from what it was taught; writes in turn."""

    def __init__(self, said=None, written=(), chat=False):
        self.said, self.chat = said or {}, chat
        self.written = itertools.cycle(written) if written else None
        self.calls, self.begun = [], []

    def write(self, prompts, *, number, samples, **_):
        self.calls.append((number, samples, list(prompts)))
        return [next(self.written) for _ in range(samples * len(prompts))]

    def proceed_sampled(self, beginnings, *, samples, tokens, temperature, top_p, label):
        self.begun.append(list(beginnings))
        return [self.said.get(text, "") for text in beginnings]

    def proceed(self, beginnings, tokens, label):
        return [self.said.get(text, "") for text in beginnings]

    def complete(self, prompts, tokens, label, stops):
        return [self.said.get(text, "") for text in prompts]

    def answer(self, prompts, tokens, label):
        return [self.said.get(text, "") for text in prompts]

    def answer_again(self, prompts, tokens, samples, temperature, label):
        return [self.said.get((text, "again"), [""] * samples) for text in prompts]
