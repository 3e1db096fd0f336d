"""Texts as they occur in data, which a reader, a line, a page or a terminal may trip over."""

import json

from made import rwku

STRANGE = {
    "control characters": "a\x00b\x07c\x08d\x1b[2Je\x7ff\x80g\x9bh",
    "ends of lines that are none in JSON lines": "a\x0bb\x0cc\x1cd\x1ee\x85f\u2028g\u2029h",
    "carriage returns": "a\rb\r\nc",
    "marks of direction": "a\u200eb\u200fc\u202ed\u202ce\u2066f\u2069g\u061ch",
    "half a surrogate pair": "a\ud83db\ude00c",
    "a byte order mark": "\ufeffa\ufeffb",
    "two characters for one": "Beyonce\u0301 Zoe\u0308 \u1100\u1161",
    "joined emoji": "\U0001f469\u200d\U0001f680 \u0645\u06cc\u200c\u062e",
    "tags and templates": "<script>alert(1)</script> {{ 7 * 7 }} {% raw %} &amp; | `x` [a](b)",
    "a date": "2012-01-01",
    "quotes and backslashes": "a\\u0041b\"c'd\\",
    "a long text": "word " * 400 + "end",
}


def add_to(value, text):
    """A JSON value with `text` behind every string in it."""
    if isinstance(value, str):
        return value + text
    if isinstance(value, list):
        return [add_to(item, text) for item in value]
    if isinstance(value, dict):
        return {key: add_to(item, text) for key, item in value.items()}
    return value


ASKED = ("query", "answer", "text", "question", "choices", "examples", "cot", "mc1_targets",
         "answers", "instruction", "neighbor")  # fmt: skip


def write_folders(folder):
    """`made.rwku`'s folders with a strange text in every field that is asked, shown or compared;
    every file begins with a byte order mark. Some texts and wrong options are empty.
    """
    kinds = list(STRANGE.values())
    rwku.write_folders(folder)
    for path in sorted(folder.glob("Target/*/*.json")):
        rows = json.loads(path.read_text(encoding="utf-8"))
        for number, row in enumerate(rows):
            strange = kinds[number % len(kinds)]
            row |= {key: add_to(row[key], strange) for key in ASKED if key in row}
            if isinstance(row.get("answers"), list):
                row["answers"].append("")
            if number == 0 and "choices" in row:
                row["choices"][0] = ""
        if "text" in rows[0]:
            rows += [{"text": kind} for kind in kinds] + [{"text": ""}, {"text": " \u2028\n"}]
        if path.stem in ("retain_mmlu", "retain_bbh", "triviaqa", "truthful"):
            rows = [add_to_row(rows[0], kind) for kind in kinds] + rows
        path.write_bytes(b"\xef\xbb\xbf" + json.dumps(rows).encode())
    return folder


def add_to_row(row, text):
    return row | {key: add_to(row[key], text) for key in ASKED if key in row}
