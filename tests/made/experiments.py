"""The shipped experiments, shrunk: the same file with generated sources, a tiny model of the same
architecture and depth, and few steps."""

from trees import ROOT

from atu.config.overlays import merged, read_layers
from made import models, muse, rwku, tofu, wmdp

TARGETS = {"rwku": rwku.PEOPLE[0], "tofu": "forget01", "muse": "forget", "wmdp": "bio"}
"""A request of each benchmark that its generated files can meet."""
SHAPES = {
    "rwku_phi3": ("phi3", 32), "rwku_phi3_quick": ("phi3", 32), "tofu_llama": ("llama", 16),
    "muse_llama": ("llama", 16), "wmdp_zephyr": ("mistral", 32),
}  # fmt: skip
"""Architecture and depth of each experiment's model."""
STEPS = {"steps": 4, "evaluations": 2, "realign_steps": 1, "batch_size": 2}
"""Laid over every method that has the key; a ladder needs a step for each of its rounds."""
SMALL = {
    "embed": {"encoder": "all-MiniLM-L6-v2", "retain_texts": 4},
    "align": {"width": 32, "layers": 1, "heads": 2, "feedforward": 32, "steps": 3},
    "pretrain": {"steps": 2, "batch_tokens": 512},
    "unlearn": {"probes": 3},
    "rephrase": {"max_new_tokens": 4},
    "utility": {"documents": 2, "fluency_prompts": 2, "fluency_tokens": 6},
    "privacy": {"retain_texts": 2, "gradient_texts": 2, "verbatim_tokens": 4},
    "attack": {"max_new_tokens": 4},
    "report": {"bootstrap": 20},
}


def shipped(name):
    """The values of a shipped experiment."""
    return merged(read_layers(ROOT / f"experiments/{name}.yaml"))


def sources(folder, name):
    """The benchmark's section, with files of its schema in the folder."""

    def at(place, lock):
        return {"place": str(place), "revision": None, "lock": str(folder / f"{lock}.json")}

    if name == "rwku":
        own = {"source": at(rwku.write_folders(folder / name), name)}
        return own | {"corpus": "positive_phi3", "retain_targets": 2}
    if name == "tofu":
        own = {"source": at(tofu.write_repository(folder / name), name)}
        return own | {"holdout": True, "concepts": []}
    if name == "muse":
        own = {"source": at(muse.write_repository(folder / name), name)}
        return own | {"concepts": muse.CONCEPTS, "folds": False, "passage_words": 20}
    return {
        "source": at(wmdp.write_questions(folder / "q"), "q"),
        "corpora": at(wmdp.write_corpora(folder / "c"), "c"),
        "bio_forget": at(wmdp.write_bio_forget(folder / "b"), "b"),
        "concepts": wmdp.CONCEPTS, "documents": 4, "passage_words": 20,
    }  # fmt: skip


def shrink(values, folder):
    """The experiment on sources that are written below `folder`: one request, small numbers."""
    name = values["prepare"]["benchmark"]
    own = sources(folder, name)
    values["prepare"] |= {key: own[key] for key in own if isinstance(own[key], dict)}
    values["grid"]["targets"] = [TARGETS[name]]
    values["search"]["targets"] = [TARGETS[name]]
    kind, layers = SHAPES[values["experiment"]]
    models.write_model(folder / "model", kind, layers)
    for spec in values["pretrain"]["models"].values():
        place, lock = folder / "model", folder / "model.lock.json"
        spec["source"] = {"place": str(place), "revision": None, "lock": str(lock)}
    for section, change in SMALL.items():
        values[section] |= change
    for settings in values["unlearn"]["methods"].values():
        settings |= {key: value for key, value in STEPS.items() if key in settings}
        if "thresholds" in settings:
            settings["steps"] = len(settings["thresholds"] or settings["quantiles"])
    for settings in values["attack"]["attacks"].values():
        settings |= {k: v for k, v in {"samples": 2, "ks": [1, 2]}.items() if k in settings}
    return values
