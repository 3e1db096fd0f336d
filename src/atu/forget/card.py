"""The model card, from the report: what was forgotten, how, what still leaks and what it cost."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

import yaml

from atu.benchmarks.concept import LONG, QUESTIONS
from atu.benchmarks.shared.source import digest_of
from atu.config.roles import ORIGINAL
from atu.errors import visible
from atu.forget.continuations import KIND
from atu.forget.corpus import CHOICES
from atu.forget.documents import account
from atu.forget.evidence import VERDICTS, Evidence
from atu.forget.evidence import table as evidence_table
from atu.forget.experiment import MODEL
from atu.forget.question_file import GIVEN
from atu.forget.samples import TOKENS, Sample
from atu.probes.prompts import FORMS
from atu.reporting.cost import seconds
from atu.reporting.tables import shown_perplexity
from atu.results.artifacts import PROVENANCE, Artifact
from atu.results.files import read_json

TITLES = {
    "target": "questions about the concept",
    "worst_form": "the concept, worst form",
    "neighbour": "neighbours",
    "general": "nothing in particular",
}
"""Columns of the report's main table, in the card's order, with the card's titles."""
SCORES: dict[str, tuple[str, Callable[[float], str]]] = {
    "fluency": ("fluency of generated text, bits", "{:.2f}".format),
    "perplexity": ("perplexity on retain texts", shown_perplexity),
}
"""Utility scores on the card: title, and how a value is shown."""
DIGITS = 12
"""Digits of a sha256 that the card shows."""
FULL = """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")"""
ADAPTER = """from peft import PeftModel
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained({base!r})
model = PeftModel.from_pretrained(model, "path/to/this/folder")"""


@dataclass(frozen=True)
class Sources:
    """The folders that the card's numbers are read from."""

    corpus: Artifact
    report: Artifact
    unlearned: Artifact
    rephrased: Artifact
    evidence: Evidence
    samples: Sequence[Sample]
    place: str
    """The original model's folder, or the hub's `owner/name`."""
    revision: str | None
    """The hub's commit, even if the user named none."""
    is_hub: bool
    method: str
    lora: bool
    aligned: Artifact | None
    """The alignment, if the method needs one."""
    select: float
    """Share of the facts in the split that chose the checkpoint."""
    keep: str
    attacks: bool
    """Whether the report has attacks."""


def make_card(sources: Sources) -> str:
    """The text of `README.md`."""
    import jinja2

    concept, writing = (sources.corpus.manifest["params"][key] for key in ("wish", "writing"))
    counts = sources.corpus.metrics()
    text = (resources.files("atu.forget") / "model.md.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, autoescape=False,
    )  # fmt: skip
    environment.filters["plain"] = plain
    rows = read_rows(sources.report)
    return environment.from_string(text).render(
        front=front_matter(sources),
        title=f"{plain(base_name(sources))} without {plain(concept['names'][0])}",
        base=base_link(sources),
        names=concept["names"],
        method=sources.method,
        lora=sources.lora,
        usage=ADAPTER.format(base=_loadable(sources)) if sources.lora else FULL,
        writing=writing,
        confidence=f"{100 * sources.report.manifest['params']['confidence']:g}",
        continued=is_continued(sources.corpus),
        **_brought(sources.corpus),
        table=table(rows, sources.method, is_continued(sources.corpus)),
        evidence=evidence_table(sources.evidence),
        strength=sources.evidence.strength,
        verdict=VERDICTS[sources.evidence.verdict],
        samples=sources.samples,
        sample_tokens=TOKENS,
        facts=rows[sources.method]["worst_form_n"],
        forms=probed_forms(sources.rephrased),
        cost=cost(sources.unlearned),
        spent={
            "writing": round(seconds([sources.corpus])),
            "alignment": round(seconds([sources.aligned])) if sources.aligned else None,
        },
        chosen=f"{100 * sources.select:g}" if sources.keep == "best" else None,
        attacks=sources.attacks,
        requested=concept["neighbours"],
        counts={
            "forget": int(counts["concept/forget_texts/all"]),
            "retain": int(counts["concept/retain_texts/all"]),
        },
        neighbours=read_json(sources.corpus.file(CHOICES))["neighbours"],
        seed=sources.unlearned.cell["seed"],
        provenance=provenance(sources),
    )


def _brought(corpus: Artifact) -> dict[str, Any]:
    """What the user brought: accounts by option, the questions about the concept, the measure."""
    choices, rows = (read_json(corpus.file(name)) for name in (CHOICES, QUESTIONS))
    kinds = [row["kind"] for row in rows if (row["role"], row["form"]) == ("target", "question")]
    return {
        "brought": {option: account(n) for option, n in choices.get("brought", {}).items()},
        "answers": {"asked": 0} | choices.get("answers", {}),
        "stated": sum(kind != GIVEN for kind in kinds),
        "long": any(row.get("measure") == LONG for row in rows),
    }


def is_continued(corpus: Artifact) -> bool:
    """Whether questions are beginnings of sentences, not facts that are stated consistently."""
    return any(row["kind"] == KIND for row in read_json(corpus.file(QUESTIONS)))


def summary(sources: Sources) -> str:
    """The card's tables and its verdict as plain lines, for a terminal."""
    rows = read_rows(sources.report)
    asked = table(rows, sources.method, is_continued(sources.corpus))
    lines = [*asked, *evidence_table(sources.evidence)]
    wide = [max(len(line[key]) for line in lines) for key in ("title", "before", "after")]
    cells = ({"title": "", "before": "before", "after": "after"}, *lines)
    text = [
        "  ".join(cell[k].ljust(w) for k, w in zip(("title", "before", "after"), wide, strict=True))
        + (f"  (chance {cell['chance']})" if cell.get("chance") else "")
        for cell in cells
    ]
    verdict = VERDICTS[sources.evidence.verdict].replace("**", "")
    return "\n".join([*(line.rstrip() for line in text), verdict])


def numbers(sources: Sources) -> dict[str, Any]:
    """All numbers of the card, for JSON."""
    rows = read_rows(sources.report)
    evidence = sources.evidence
    return {
        "concept": sources.corpus.manifest["params"]["wish"]["names"],
        "method": sources.method,
        "kind": KIND if is_continued(sources.corpus) else "facts",
        "summary": summary(sources),
        "strength": evidence.strength,
        "verdict": evidence.verdict,
        "evidence": [line.numbers() for line in evidence.lines],
        "log_probability_change": {role: asdict(e) for role, e in evidence.change.items()},
        "excess": asdict(evidence.excess) if evidence.excess else None,
        "report": {name: rows[name] for name in (ORIGINAL, sources.method)},
        "neighbours": read_json(sources.corpus.file(CHOICES))["neighbours"],
        "cost": cost(sources.unlearned),
        "seconds_writing": seconds([sources.corpus]),
        "seconds_alignment": seconds([sources.aligned]) if sources.aligned else None,
        "samples": [sample.plain() for sample in sources.samples],
    }


MARKUP = re.compile(r"[\\`*_{}\[\]<>()#|&~!]")


def plain(text: str) -> str:
    """A text as Markdown that shows it as it is, on one line. Names are a model's or a user's, and
    may look like a link, a table's bar or a tag.
    """
    return MARKUP.sub(r"\\\g<0>", visible(" ".join(text.split())))


def _loadable(sources: Sources) -> str:
    """The original model in code; local paths are replaced, as nobody else has them."""
    return sources.place if sources.is_hub else "path/to/the/original"


def base_name(sources: Sources) -> str:
    """The original model's name: the last part of its place."""
    return sources.place.rstrip("/").rsplit("/", 1)[-1]


def base_link(sources: Sources) -> str:
    """A link to the original model, or its name if it is local."""
    if not sources.is_hub:
        return f"`{base_name(sources)}` (a local folder)"
    at = f" at `{sources.revision}`" if sources.revision else ""
    return f"[{sources.place}](https://huggingface.co/{sources.place}){at}"


def front_matter(sources: Sources) -> str:
    """The hub's metadata: `base_model` only for a hub model; the publisher adds `license`."""
    values: dict[str, Any] = {
        "library_name": "peft" if sources.lora else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["unlearning", "machine-unlearning", "align-then-unlearn"],
    }
    if sources.is_hub:
        values["base_model"] = sources.place
        values["base_model_relation"] = "adapter" if sources.lora else "finetune"
    return yaml.safe_dump(values, sort_keys=True, allow_unicode=True)


def read_rows(report: Artifact) -> dict[str, dict[str, str]]:
    """The rows of the report's main table by method."""
    with report.file("table.csv").open(encoding="utf-8", newline="") as stream:
        return {row["method"]: row for row in csv.DictReader(stream)}


def table(
    rows: Mapping[str, Mapping[str, str]], method: str, one_form: bool = False
) -> list[dict[str, str]]:
    """A line per column of the report, with its value before and after; asked in one form, no line
    for the worst.
    """
    before, after = rows[ORIGINAL], rows[method]
    lines = [
        {"title": title, "before": interval(before, key), "after": interval(after, key)}
        for key, title in TITLES.items()
        if key in before and not (one_form and key == "worst_form")
    ]
    lines += [
        {"title": title, "before": show(float(before[key])), "after": show(float(after[key]))}
        for key, (title, show) in SCORES.items()
    ]
    collapsed = {key: "yes" if float(row["collapsed"]) else "no"
                 for key, row in (("before", before), ("after", after))}  # fmt: skip
    return [*lines, {"title": "COLLAPSED", **collapsed}]


def interval(row: Mapping[str, str], key: str) -> str:
    """Estimate, interval and number of items: "0.20 [0.00, 0.60] (5)"; INVALID where not every
    item was scored.
    """
    count = row[f"{key}_n"]
    if not row[key]:
        return f"INVALID ({count})"
    mean, low, high = (float(row[name]) for name in (key, f"{key}_low", f"{key}_high"))
    return f"{mean:.2f} [{low:.2f}, {high:.2f}] ({count})"


def probed_forms(rephrased: Artifact) -> list[str]:
    """The labels of the forms in which the concept was probed."""
    probed = {key.split("/")[1].split(".")[1] for key in rephrased.metrics() if "/target." in key}
    return [form.shown for name, form in FORMS.items() if name in probed]


def cost(unlearned: Artifact) -> dict[str, Any]:
    """Steps and tokens from the job's metrics, time and device from its provenance."""
    metrics = unlearned.metrics()
    device = read_json(unlearned.folder / PROVENANCE)["device"]
    return {
        "steps": int(metrics["unlearn/model_steps/all"]),
        "predictor_steps": int(metrics["unlearn/predictor_steps/all"]),
        "tokens": int(metrics["unlearn/tokens/all"]),
        "seconds": round(seconds([unlearned])),
        "device": "CPU" if device == "cpu" else device,
    }


def provenance(sources: Sources) -> Sequence[tuple[str, str]]:
    """Pins, seeds and versions, as rows of a table."""
    record = read_json(sources.unlearned.folder / PROVENANCE)
    pins = sources.corpus.manifest["params"]["pins"]
    weights = {n: d for n, d in pins[MODEL].items() if n.endswith(".safetensors")}
    libraries = ("torch", "transformers", "tokenizers", "safetensors")
    code = record["code"]
    return [
        *((f"original `{name}`", f"sha256 `{d[:DIGITS]}`") for name, d in weights.items()),
        *((f"sentence encoder `{name}`", f"sha256 `{d[:DIGITS]}`")
          for name, d in pins["encoder"].items() if name.endswith(".safetensors")),
        *((f"files of `{option}`: {len(files)}", f"sha256 of theirs `{_digest(files)}`")
          for option, files in pins.get("brought", {}).items()),
        ("written corpus", f"manifest sha256 `{sources.corpus.digest[:DIGITS]}`"),
        ("unlearned model", f"manifest sha256 `{sources.unlearned.digest[:DIGITS]}`"),
        ("report", f"manifest sha256 `{sources.report.digest[:DIGITS]}`"),
        ("seed", str(sources.unlearned.cell["seed"])),
        ("libraries", ", ".join(f"{n} {record['libraries'][n]}" for n in libraries)),
        ("code", f"commit `{code['commit'] or 'unknown'}`"
                 + (", with changes that were not committed" if code["dirty_diff_sha256"] else "")),
    ]  # fmt: skip


def _digest(files: Sequence[Sequence[str]]) -> str:
    """One for all files, whose names are a user's own business."""
    return digest_of([{"sha256": digest} for _, digest in files])[:DIGITS]
