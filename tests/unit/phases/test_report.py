import dataclasses
import html
import json
import math
import re
from pathlib import Path

import polars as pl
import pytest
from typer.main import get_command

from atu import cli, methods
from atu.errors import HIDDEN, ArtifactError
from atu.methods.base import GUARDED
from atu.metrics import trust
from atu.metrics.trust import Trust
from atu.phases import report
from atu.phases.rephrase import ITEMS
from atu.reporting import marks
from atu.reporting.answers import answer_groups
from atu.reporting.inputs import ReportInputs, require_same_cells, require_same_evaluation
from atu.reporting.names import FIGURES
from atu.reporting.page import predictor_scores
from atu.reporting.privacy import TITLES
from atu.reporting.robustness import REPHRASED, shown_columns
from atu.results.artifacts import MANIFEST, Artifact
from atu.results.files import write_json
from atu.results.tables import read_frame

EXACT_MATCH = "exact_match@own-2"
KNOWN = dict.fromkeys(["known_question", "general_question"], 0.9)


@pytest.fixture
def make_inputs(make_cell, store, ga_leaks):
    """A function that writes the cells of the original and of GA, and the full model's folder.
    `select` is what every item of the `select` split scored, `leaks` what GA answers besides; GA's
    attacks are `attacks`, the original's score 1. `requests` are further targets with all of their
    items, which every method has; `searched` is what the searches found."""

    def make(
        where="results",
        *,
        select=0.5,
        leaks=(),
        methods=("none", "ga"),
        attacks=None,
        extra=(),
        requests=None,
        searched=(),
        **own,
    ):
        cells = [
            make_cell(
                method, where=where, select=select,
                extra=extra,
                leaks=None if method == "none" else ga_leaks | set(leaks),
                attacks=dict.fromkeys(attacks or (), 1.0) if method == "none" else attacks,
                **({} if method == "none" else own),
            )
            for method in methods
        ]  # fmt: skip
        cells += [
            make_cell(method, where=where, target=label, items=items)
            for label, items in (requests or {}).items()
            for method in methods
        ]
        search = store(
            f"{where}/search", "search", {"method": None},
            files={"search.json": lambda path: write_json(path, list(searched))},
        )  # fmt: skip
        full = store(
            f"{where}/pretrain", "pretrain", {"oracle_of": None},
            metrics={f"pretrain/exact_match_{k}/held_out": v for k, v in KNOWN.items()},
        )  # fmt: skip
        names = ("rephrase", "utility", "privacy", "unlearn", "align")
        columns = {name: [cell[name] for cell in cells] for name in names}
        columns["align"] = columns["align"][:1]
        attacked = [cell[f"attack/{name}"] for cell in cells for name in attacks or ()]
        return ReportInputs(pretrain=[full], attack=attacked, search=[search], **columns)

    return make


@pytest.fixture
def reported(tmp_path, make_params, monkeypatch):
    """A function that reports and opens the folder; the grid's attacks are those of the inputs.
    Figures, which take most of the time, are drawn only where a test says so."""
    draw = report._write_figures

    def stand_in(job, *_):
        for name in FIGURES:
            job.path(name).write_text("<svg >not drawn</svg>")

    def run(inputs, where="report", attacks=None, drawn=False, **changed):
        monkeypatch.setattr(report, "_write_figures", draw if drawn else stand_in)
        names = dict.fromkeys(artifact.cell["attack"] for artifact in inputs.attack)
        params = make_params(*(names if attacks is None else attacks), **changed)
        manifest = tmp_path / where / MANIFEST
        report.run(manifest, params, inputs)
        return Artifact.open(manifest, "report")

    return run


def page(artifact):
    return artifact.file("report.html").read_text(encoding="utf-8")


def test_files(reported, make_inputs):
    artifact = reported(make_inputs(attacks={"lens": 0.0, "context": 0.0}), drawn=True)
    assert sorted(artifact.manifest["artifacts"]) == sorted(
        [
            *FIGURES, "attacker.csv", "attacker.md", "comparison.csv", "comparison.md", "cost.csv",
            "distance.csv", "distance.md", "forms.csv", "metrics.json", "privacy.csv",
            "searches.csv", "privacy.md", "cells.csv", "headline.json", "headline.md",
            "report.html",
            "requests.csv", "robustness.csv", "robustness.md",
            "robustness_summary.csv", "table.csv", "table.md", "trajectories.csv",
            "verdicts.json",
        ]
    )  # fmt: skip


def test_metrics(reported, make_inputs):
    """GA as in tests/unit/reporting: nothing of the target's questions, half of its worst forms,
    half of the neighbours."""
    metrics = reported(make_inputs()).metrics()
    found = {
        key: metrics[f"report/m.ga.{key}.{EXACT_MATCH}/report"]
        for key in ("target", "worst_form", "neighbour", "other", "general")
    }
    assert found == {
        "target": 0.0, "worst_form": 0.5, "neighbour": 0.5, "other": 1.0, "general": 1.0,
    }  # fmt: skip
    assert metrics[f"report/m.none.target.{EXACT_MATCH}/report"] == 1.0
    assert metrics["report/m.ga.generate/report"] == 0.9


@pytest.fixture
def judged(reported, make_inputs):
    """A report with an oracle, which has GA's answers but for one more of the neighbours'."""
    inputs = make_inputs("first", methods=("none", "oracle", "ga"))
    more = make_inputs("more", methods=("oracle",), leaks=[("Bob/food", "question")])
    mixed = {
        name: [getattr(inputs, name)[0], getattr(more, name)[0], getattr(inputs, name)[2]]
        for name in ("rephrase", "utility", "privacy", "unlearn")
    }
    return reported(dataclasses.replace(inputs, **mixed))


def test_the_distance_to_the_oracle(judged):
    """GA lacks half of the neighbours, which are half of what is near: .25 / 4. The original
    differs in half of the target's questions, (1 + .5) / 2 in forgetting: .75 / 4."""
    table = pl.read_csv(judged.file("table.csv"))
    assert table["distance"].to_list() == [0.1875, 0.0, 0.0625]
    assert rows_of(page(judged), "comparison")["Gradient ascent"][7] == "0.062 [0.000, 0.125] n = 1"
    assert judged.metrics()["report/m.ga.oracle_distance@own-3/report"] == 0.0625
    assert "| distance to the oracle |" in judged.file("table.md").read_text(encoding="utf-8")


def test_the_table_is_followed_by_two_rankings(judged, reported, make_inputs):
    """All plain questions have one answer here, so guessing has everything of the target, and what
    is kept decides: near it (.5 + 1) / 2, 3 / (1 / .75 + 1 + 1). Without an oracle one ranking."""
    chosen = "By selection on the report split, high is good: Gradient ascent 0.900."
    told = [chosen, "By distance to the oracle, low is good: Gradient ascent 0.062."]
    table = judged.file("table.md").read_text(encoding="utf-8")
    assert table.splitlines()[-3::2] == told
    assert all(f"<p>{line}</p>" in page(judged) for line in told)
    assert judged.metrics()["report/m.ga.selection@own-4/report"] == pytest.approx(0.9)
    alone = reported(make_inputs("alone"), "alone/report")
    assert alone.file("table.md").read_text(encoding="utf-8").splitlines()[-1] == chosen
    assert "distance" not in page(alone)


def test_what_an_attacker_sees_stands_below_the_table(reported, make_inputs):
    """The retain question beside the target's, the lens, the texts' AUC and PrivLeak: GA's."""
    artifact = reported(make_inputs(attacks={"lens": 0.25}, memory=0.75))
    table = pl.read_csv(artifact.file("attacker.csv"))
    assert table.columns[2::5] == [
        "partner", "lens.0", "membership_loss@faithful-1", "forget.muse_priv_leak@faithful-1",
    ]  # fmt: skip
    seen = rows_of(page(artifact), "privacy")["method"]
    assert seen[1:] == ["logit lens, top 4 per layer", "membership AUC, loss", "PrivLeak, %"]
    lines = artifact.file("attacker.md").read_text(encoding="utf-8").splitlines()
    assert lines[3] == "| Gradient ascent | 1.00 | 0.25 | 1.00 | 0.75 |"


def test_the_table_as_csv(reported, make_inputs):
    """One line per method, with interval and count of every column and the utility beside it."""
    table = pl.read_csv(reported(make_inputs()).file("table.csv"))
    assert table["method"].to_list() == ["none", "ga"]
    assert {"target", "target_low", "target_high", "target_n", "generate", "collapsed"} <= set(
        table.columns
    )


def test_the_same_cells_give_the_same_bytes(reported, make_inputs):
    """Elsewhere and again: tables, figures and page."""
    first, second = (
        reported(make_inputs(name, attacks={"lens": 0.5}), f"report/{name}", drawn=True)
        for name in ("first", "second")
    )
    assert (first.folder / MANIFEST).read_bytes() == (second.folder / MANIFEST).read_bytes()


def test_all_numbers_come_from_the_report_split(reported, make_inputs):
    """Poison in every `select` item changes no byte of any file; one `report` item does."""
    clean = reported(make_inputs("clean"), "report1", drawn=True)
    poisoned = reported(make_inputs("poisoned", select=-1e6), "report2", drawn=True)
    assert clean.manifest["inputs"] != poisoned.manifest["inputs"]
    assert clean.manifest["artifacts"] == poisoned.manifest["artifacts"]
    other = reported(make_inputs("other", leaks=[("Ada/pet", "question")]), "report3")
    assert clean.manifest["artifacts"] != other.manifest["artifacts"]


@pytest.mark.parametrize("phase", ["rephrase", "utility", "privacy", "unlearn"])
def test_cells_that_differ_are_refused(tmp_path, reported, make_inputs, phase):
    """One phase lacks a cell that the others have: no comparison, and no folder."""
    inputs = make_inputs()
    shorter = dataclasses.replace(inputs, **{phase: getattr(inputs, phase)[:1]})
    with pytest.raises(ArtifactError, match=r"report: .* and unlearn cover different cells"):
        reported(shorter)
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("collapsed", [0.0, 1.0])
def test_a_collapsed_method_is_flagged(reported, make_inputs, collapsed):
    """In the page's row, in the table for the README and among the metrics."""
    artifact = reported(make_inputs(scores={"collapsed": collapsed}))
    text = page(artifact)
    assert ("COLLAPSED" in rows_of(text, "comparison", 0).popitem()[0]) is bool(collapsed)
    assert ('<span class="bad">COLLAPSED' in text) is bool(collapsed)
    table = artifact.file("table.md").read_text(encoding="utf-8").splitlines()
    assert table[3].endswith("| yes |" if collapsed else "| no |")
    assert artifact.metrics()["report/m.ga.collapsed/report"] == collapsed


def test_a_task_whose_prompts_were_cut_is_invalid_everywhere(reported, make_inputs):
    """GA's alone: on the page with the number of prompts, in the Markdown and CSV, and not among
    the metrics. A perplexity at its cap is a bound."""
    cut = {"generate_truncated": 6.0, "generate_invalid": 1.0, "perplexity": 1e6}
    fine = {"generate_truncated": 0.0, "generate_invalid": 0.0}
    artifact = reported(make_inputs(scores=fine | cut))
    text = page(artifact)
    assert text.count("<td>INVALID<span") == 1 and "n = 12, 6 prompts cut" in text
    assert "≥ 1e+06" in text
    assert "| INVALID | no |" in artifact.file("table.md").read_text(encoding="utf-8")
    table = pl.read_csv(artifact.file("table.csv"))
    assert table["generate"].to_list() == [0.9, None]
    metrics = artifact.metrics()
    assert "report/m.none.generate/report" in metrics
    assert "report/m.ga.generate/report" not in metrics


def test_the_verdict_in_words_stands_first(reported, make_inputs):
    """Of GA, and not of the original; beside it in a file, by model and method."""
    artifact = reported(make_inputs(attacks={"lens": 0.0}))
    words = (
        "Forgets plain questions; no attack that was tried finds it again; no loss is shown of "
        "what should be kept."
    )
    assert json.loads(artifact.file("verdicts.json").read_text()) == {"m.ga": {"words": words}}
    first = html.unescape(page(artifact).split("<table")[0])
    assert f'<b title="ga">Gradient ascent</b>: {words}' in first
    assert '<b title="none">' not in first


def test_the_first_table_has_the_few_numbers_and_every_cell_its_own(judged):
    """As the main table has them; utility is the mean of general facts, 1, and generation, .9."""
    assert json.loads(judged.file("headline.json").read_text())["ga"] == {
        "target_questions": 0.0, "worst_form": 0.5, "neighbours": 0.5, "utility": 0.95,
        "distance": 0.0625, "collapsed": 0,
    }  # fmt: skip
    told = judged.file("headline.md").read_text(encoding="utf-8").splitlines()
    assert told[0].endswith("| distance to the oracle (n = 1) |")
    assert told[4].startswith("| Gradient ascent | 0.00 | 0.50 [0.00, 1.00] |")
    first = rows_of(page(judged).replace("<h1", "<h2"), "verdict")
    assert first["Gradient ascent"][4] == "0.062 [0.000, 0.125]"
    cells = pl.read_csv(judged.file("cells.csv")).to_dicts()
    assert cells[2] == {
        "model": "m", "target": "Ada", "method": "ga", "seed": 0, "target_questions": 0.0,
        "worst_form": 0.5, "neighbours": 0.5, "utility": 0.95, "distance": 0.0625, "collapsed": 0,
        "name": "Gradient ascent", "folder": "results/x/rephrase/m/Ada/ga/0/manifest.json",
    }  # fmt: skip
    text = page(judged)
    assert f"<code>{cells[2]['folder']}</code>" in text
    (again,) = re.findall("<pre>(.*?)</pre>", text, re.DOTALL)
    assert again.split() == [
        "snakemake", "--cores", "2",
        *(word for phase in ("rephrase", "utility", "privacy")
          for word in ("\\", f"results/x/{phase}/m/Ada/ga/0/manifest.json")),
    ]  # fmt: skip
    (key,) = re.findall("<code>atu explain (.*?)</code>", text)
    assert key in judged.metrics()


def test_what_there_is_not_is_not_explained(reported, make_inputs):
    """No oracle: no comparison with one is promised."""
    without = page(reported(make_inputs()))
    assert "There is no oracle" in without
    assert without.replace("no oracle", "", 1).lower().count("oracle") == 0
    with_one = page(reported(make_inputs("o", methods=("none", "oracle", "ga")), "o/report"))
    assert "The oracle’s numbers are those to have" in with_one
    assert "down to the oracle" in with_one


def test_the_page_says_how_many_answers_official_code_cannot_read(reported, make_inputs, make_item):
    """Of both methods; where it reads all of them nothing is said."""
    text = page(reported(make_inputs()))
    assert "cannot read the script" not in text
    extra = [make_item("Ada/name", blind=True), make_item("Ada/name", split="select", blind=True)]
    inputs = make_inputs("other", extra=extra)
    asked = sum((read_frame(a.file("items.parquet"))["split"] == "report").sum()
                for a in inputs.rephrase)  # fmt: skip
    text = page(reported(inputs, "other/report"))
    assert f"cannot read the script of 2 of the {asked} answers" in " ".join(text.split())


def test_answers_cannot_inject_html(reported, make_inputs):
    """A model may answer anything; here "<none>"."""
    text = page(reported(make_inputs()))
    assert "&lt;none&gt;" in text and "<none>" not in text


def test_the_page_stands_alone(reported, make_inputs):
    """Every figure is in it, and no address to load anything from."""
    text = page(reported(make_inputs(), drawn=True))
    assert text.count('<svg role="img" aria-label="') == len(FIGURES)
    addresses = set(re.findall(r'(?:src|href)="([^#][^"]*)"', text))
    assert {address[:22] for address in addresses} <= {"data:image/png;base64,"}
    assert "@import" not in text and "fetch(" not in text


def test_the_page_says_what_every_method_does(reported, make_inputs):
    """In one line each, with the paper's number; the words have the original and the oracle."""
    text = page(reported(make_inputs()))
    ga = methods.get("ga")
    assert f"<dt>{ga.title}</dt><dd>{ga.does} (arXiv {ga.source})</dd>" in text
    assert f"<dd>{methods.get('none').does}" not in text


def test_a_missing_attack_is_refused_by_name(tmp_path, reported, make_inputs):
    """One of the two attacks was not run on GA; the other was, on all cells."""
    inputs = make_inputs(attacks={"lens": 0.0, "context": 0.0})
    for missing, other in (("lens", "context"), ("context", "lens")):
        kept = [
            artifact
            for artifact in inputs.attack
            if (artifact.cell["attack"], artifact.cell["method"]) != (missing, "ga")
        ]
        with pytest.raises(ArtifactError, match=f"attack {missing} and unlearn") as caught:
            reported(dataclasses.replace(inputs, attack=kept), attacks=("lens", "context"))
        assert other not in str(caught.value)
    assert not (tmp_path / "report").exists()


def test_an_attack_of_the_grid_that_was_not_run_at_all_is_refused(reported, make_inputs):
    with pytest.raises(ArtifactError, match="attack context and unlearn cover different cells"):
        reported(make_inputs(attacks={"lens": 0.0}), attacks=("lens", "context"))


def rows_of(text, section, number=0):
    """A table of a section: the text of every cell, by the text of its line's first."""
    table = text.split(f'<h2 id="{section}">')[1].split("<h2")[0].split("<table")[number + 1]
    found = {}
    for line in re.findall(r"<tr[^>]*>(.*?)</tr>", table, re.DOTALL):
        cells = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line, re.DOTALL)
        plain = [html.unescape(re.sub(r"<[^>]*>", " ", cell)).split() for cell in cells]
        found[" ".join(plain[0])] = [" ".join(words) for words in plain[1:]]
    return found


def test_the_page_shows_every_line_of_robustness(reported, make_inputs, make_params):
    """What was asked and every attack, one column per method, with the number of items last."""
    text = page(reported(make_inputs(attacks={"lens": 0.25, "quantise": 0.5})))
    lines = rows_of(text, "robustness", 1)
    shown = shown_columns(make_params().attack, ["lens", "quantise"])
    assert [*lines][1:] == [column.title for column in shown]
    titles = {column.key: column.title for column in shown}
    assert lines[titles["lens.0"]] == ["1.00", "0.25", "2"]
    assert lines[titles["quantise.1"]] == ["1.00", "0.50", "2"]
    assert lines[titles["question"]][:2] == ["1.00", "0.00"]
    assert lines[titles["worst"]][1].startswith("0.50 [")
    assert "No attack was run" not in text


def test_controls_are_in_italics(reported, make_inputs, make_params):
    text = page(reported(make_inputs(attacks={"lens": 0.25})))
    for column in shown_columns(make_params().attack, ["lens"]):
        title = html.escape(column.title).replace("&#x27;", "&#39;")
        start = text.split(f'title="{column.key}">{title}</th>')[0].rpartition("<tr")[2]
        assert (start == ' class="special control"><th scope="row" ') is column.control


def test_without_attacks_the_page_says_so(reported, make_inputs):
    """What was asked is shown all the same."""
    text = page(reported(make_inputs()))
    assert "No attack was run; list some in <code>grid.attacks</code>" in text
    lines = rows_of(text, "robustness", 1)
    assert [*lines][1:] == [column.title for column in REPHRASED]


def test_the_page_shows_privacy(reported, make_inputs):
    """The original's texts score .5 more than strangers', GA's 1 more: told apart, with no width.
    Numbers of whole cells have no interval."""
    lines = rows_of(page(reported(make_inputs(memory=1.0))), "privacy", 1)
    assert set(TITLES.values()) <= set(lines)
    assert lines["AUC, loss"] == ["1.00", "1.00", "8"]
    assert lines["MUSE PrivLeak, %"] == ["0.50", "1.00", "1"]
    assert lines["TOFU probability"] == ["0.50", "1.00", "2"]


def test_the_page_shows_the_comparison(reported, make_inputs):
    """GA against the oracle, which has GA's answers here; not against the original. Where nobody
    else is, there is no such table."""
    inputs = make_inputs(methods=("none", "oracle", "ga"))
    text = page(reported(inputs, "first"))
    assert "Gradient ascent minus the other method, item by item" in text
    gaps = rows_of(text, "comparison", 1)
    assert gaps["Gradient ascent"] == ["0.000"] * 7 == gaps["Oracle"]
    lines = rows_of(text, "comparison", 2)
    assert [*lines][1:] == ["Oracle"]
    assert lines["Oracle"] == [*["0.00 as the oracle"] * 4, "–"]
    assert "against the others" not in page(reported(make_inputs("alone"), "second"))


@pytest.fixture
def unscored(make_inputs, make_item):
    """Inputs in which one more question about the target was not scored, for GA and the original;
    and one item of GA's attack."""
    from atu.phases.rephrase import SCORES

    item = make_item("Ada/job", **dict.fromkeys(SCORES, None))
    cell = {"condition": "gold", "metric": EXACT_MATCH, "role": "target", "output": None}
    rows = [
        cell | {"id": fact, "fact": fact, "score": score}
        for fact, score in (("Ada/pet", 0.375), ("Ada/food", None))
    ]
    return make_inputs(attacks={"lens": rows}, extra=[item])


def test_what_was_not_wholly_scored_is_invalid_everywhere(reported, unscored, make_params):
    """In the tables, on the page and in no metric; what was scored has its number."""
    artifact = reported(unscored)
    row = pl.read_csv(artifact.file("table.csv")).filter(pl.col("method") == "ga").to_dicts()[0]
    assert (row["target"], row["target_low"], row["target_n"], row["target_n_scored"]) == (
        None, None, 3, 2,
    )  # fmt: skip
    assert row["neighbour"] == 0.5
    tried = pl.read_csv(artifact.file("robustness.csv")).filter(pl.col("method") == "ga")
    assert tried.select("lens.0", "lens.0_n", "lens.0_n_scored").row(0) == (None, 2, 1)
    for name in ("table.md", "robustness.md"):
        assert "INVALID" in artifact.file(name).read_text(encoding="utf-8")
    lines = rows_of(page(artifact), "robustness", 1)
    title = shown_columns(make_params().attack, ["lens"])[len(REPHRASED)].title
    assert lines[title][1] == "INVALID 1 of 2 scored"
    main = rows_of(page(artifact), "comparison")
    assert main["Gradient ascent"][0] == "INVALID 2 of 3 scored n = 3"
    metrics = artifact.metrics()
    assert f"report/m.ga.target.{EXACT_MATCH}/report" not in metrics
    assert "report/m.ga.robustness.lens.0/report" not in metrics
    assert metrics[f"report/m.ga.neighbour.{EXACT_MATCH}/report"] == 0.5
    assert metrics["report/m.none.robustness.lens.0/report"] == 1.0


def test_metrics_hold_only_valid_numbers(reported, unscored):
    """And one for every valid estimate of the tables, privacy's and robustness's among them."""
    metrics = json.loads(reported(unscored).file("metrics.json").read_text(encoding="utf-8"))
    assert all(isinstance(value, float) and math.isfinite(value) for value in metrics.values())
    assert all(name.startswith("report/m.") and name.endswith("/report") for name in metrics)
    for name in TITLES:
        assert f"report/m.ga.privacy.{name}/report" in metrics


BAD = "<script>alert(1)</script>"


def test_names_cannot_inject_html(reported, make_inputs, make_params, monkeypatch):
    """Attack's titles, privacy's titles, methods, targets and the experiment's name; parameters
    refuse most of them, the page all."""
    column = dataclasses.replace(shown_columns(make_params().attack, [])[0], title=BAD)
    monkeypatch.setattr(report, "shown_columns", lambda *_: [column])
    monkeypatch.setattr(report, "TITLES", TITLES | {next(iter(TITLES)): BAD})
    real = report.make_tables

    def renamed(params, inputs):
        found = real(params, inputs)
        for row in [*found.rows, *found.robustness, *found.privacy, *found.cost]:
            row["model"] = BAD
        utility = {(BAD, method): value for (_, method), value in found.utility.items()}
        names = dict.fromkeys(found.methods, BAD)
        return dataclasses.replace(found, utility=utility, names=names)

    monkeypatch.setattr(report, "make_tables", renamed)
    text = page(reported(make_inputs(attacks={"lens": 0.0})))
    assert text.count("&lt;script&gt;alert(1)") >= 8
    assert text.count("<script") == 1  # the page's own


def test_hidden_characters_are_seen_on_the_page(reported, make_inputs, monkeypatch):
    """In answers and in names: a browser would turn the line around, or end it."""
    real = report.make_tables

    def renamed(params, inputs):
        found = real(params, inputs)
        items = found.items.with_columns(output=pl.lit("a\u202eb\x00c\u2028d\ne"))
        answers = answer_groups(items, found.methods)
        return dataclasses.replace(found, answers=answers, notes={"ga": "x\x1b[2J\ufeff"})

    monkeypatch.setattr(report, "make_tables", renamed)
    text = page(reported(make_inputs()))
    assert "a\\u202eb\\x00c\\u2028d\ne" in text and "x\\x1b[2J\\ufeff" in text
    assert not HIDDEN.search(text)
    assert text.count("<b>") and "&lt;b&gt;" not in text  # markup of the page itself stays


@pytest.mark.parametrize("name", ["robustness", "privacy", "forms", "table"])
def test_every_csv_has_a_line_per_row(reported, make_inputs, name):
    """Of every method; intervals lie around their means."""
    artifact = reported(make_inputs(attacks={"lens": 0.25}))
    table = pl.read_csv(artifact.file(f"{name}.csv"))
    assert set(table["method"]) == {"none", "ga"}
    assert (len(table) == 2) is (name != "forms")
    for key in table.columns:
        if f"{key}_low" in table.columns:
            assert (table[f"{key}_low"] <= table[key] + 1e-12).all()
            assert (table[key] <= table[f"{key}_high"] + 1e-12).all()


def test_dominance_stands_first_on_the_page(reported, make_inputs):
    """NPO is as GA, but knows all of the neighbours."""
    inputs = make_inputs(methods=("none", "ga", "npo"))
    text = page(reported(inputs))
    assert "does at least as well" not in text
    better = make_inputs("better", methods=("none", "ga", "npo"), leaks=[("Bob/food", "question")])
    mixed = dataclasses.replace(
        inputs, **{name: [*getattr(inputs, name)[:2], getattr(better, name)[2]]
                   for name in ("rephrase", "utility", "privacy", "unlearn")}
    )  # fmt: skip
    text = page(reported(mixed, "mixed"))
    first = text.split("<table")[0]
    assert (
        "<li>NPO does at least as well as Gradient ascent in all that is compared (target" in first
    )


def stand_ins(*cells):
    """Folders that have nothing but their cell."""
    keys = ("model", "target", "method", "seed")
    return [
        Artifact(Path(f"{cell}"), {"cell": dict(zip(keys, cell, strict=True))}, "")
        for cell in cells
    ]


@pytest.mark.parametrize(
    "cells",
    [
        [("m", "Ada", "none", 0), ("m", "Ada", "ga", 0), ("m", "Ada", "ga", 1)],
        [("m", "Ada", "none", 0), ("m", "Ada", "ga", 1)],
        [("m", "Ada", "none", 0), ("m", "Bob", "none", 0), ("m", "Ada", "ga", 0)],
        [("m", "Ada", "none", 0), ("n", "Ada", "ga", 0)],
        [("m", "Ada", "none", 0), ("m", "Bob", "none", 1), ("m", "Ada", "ga", 1),
         ("m", "Bob", "ga", 0)],
    ],
    ids=["more seeds", "another seed", "fewer targets", "another model", "crossed"],
)  # fmt: skip
def test_methods_that_differ_in_their_cells_are_refused(cells):
    """Every phase has the same cells, yet one method was run where another was not."""
    found = stand_ins(*cells)
    inputs = ReportInputs(found, found, found, found, [], [], [], [])
    with pytest.raises(ArtifactError, match=r"(none and ga|ga and none) differ in models, targets"):
        require_same_cells(inputs, [])
    keys = sorted({(model, target, seed) for model, target, _, seed in cells})
    whole = stand_ins(*((m, t, method, s) for method in ("none", "ga") for m, t, s in keys))
    require_same_cells(ReportInputs(whole, whole, whole, whole, [], [], [], []), [])


def changed(artifact, **values):
    """The folder as if its manifest said otherwise."""
    return dataclasses.replace(artifact, manifest=artifact.manifest | values)


@pytest.fixture
def asked(make_inputs, store):
    """Inputs, and a function that replaces GA's folder of a phase by one that was evaluated
    otherwise."""
    inputs = make_inputs()

    def otherwise(phase, what):
        before, own = getattr(inputs, phase)
        if what == "params":
            found = changed(own, params={"max_new_tokens": 9})
        elif what == "probes":
            found = changed(own, inputs=own.manifest["inputs"] | {"prepare": "0" * 64})
        else:
            metrics = {f"{phase}/x.exact_match@own-{number}/report": 0.5 for number in (1, 2)}
            found = store(f"other/{phase}", phase, own.cell, metrics=metrics)
            found = changed(found, inputs=own.manifest["inputs"])
        return dataclasses.replace(inputs, **{phase: [before, found]}), found

    return inputs, otherwise


@pytest.mark.parametrize("phase", ["rephrase", "utility", "privacy"])
@pytest.mark.parametrize("what", ["params", "probes", "metrics"])
def test_cells_that_were_evaluated_differently_are_refused(asked, reported, phase, what):
    """Other parameters, other probes or another version of a metric; both folders are named."""
    inputs, otherwise = asked
    require_same_evaluation(inputs)
    other, found = otherwise(phase, what)
    with pytest.raises(ArtifactError, match="were evaluated differently") as caught:
        reported(other)
    for folder in (getattr(inputs, phase)[0].folder, found.folder):
        assert str(folder) in str(caught.value)


def test_targets_may_have_different_probes(make_cell):
    """Their cells are never paired."""
    cells = [make_cell("ga", target=target) for target in ("Ada", "Bea")]
    columns = {name: [cell[name] for cell in cells] for name in ("rephrase", "utility", "privacy")}
    found = {cell["rephrase"].manifest["inputs"]["prepare"] for cell in cells}
    assert len(found) == 2
    require_same_evaluation(ReportInputs(**columns, unlearn=[], align=[], pretrain=[], attack=[],
                                   search=[]))  # fmt: skip


@pytest.fixture
def alone():
    """A function that gives inputs with the folders of one phase only."""
    nothing = dict.fromkeys(ReportInputs.__annotations__, ())

    def build(phase, artifacts):
        return ReportInputs(
            **{name: list(none) for name, none in nothing.items()} | {phase: artifacts}
        )

    return build


def test_targets_share_parameters_and_metrics(make_cell, alone):
    """An average over targets that were asked in two ways is no average."""
    first, second = (make_cell("ga", target=target)["rephrase"] for target in ("Ada", "Bea"))
    require_same_evaluation(alone("rephrase", [first, second]))
    with pytest.raises(ArtifactError, match="were evaluated differently"):
        require_same_evaluation(alone("rephrase", [first, changed(second, params={"x": 1})]))


def test_attacks_share_parameters_with_their_own_kind(make_cell, alone):
    """Two attacks have parameters of their own; one attack on two methods has the same."""
    made = [make_cell(m, attacks={"lens": 0.5, "relearn": 0.5}) for m in ("none", "ga")]
    lens = [changed(cell["attack/lens"], params={"k": 4}) for cell in made]
    relearn = [cell["attack/relearn"] for cell in made]
    require_same_evaluation(alone("attack", [*lens, *relearn]))
    other = changed(lens[1], params={"k": 5})
    with pytest.raises(ArtifactError, match="were evaluated differently"):
        require_same_evaluation(alone("attack", [lens[0], other, *relearn]))


@pytest.fixture
def two_names(make_item):
    """All items about Ada and Bea. Of Ada's two facts one leaks in a plain question and the other
    as a cloze; of Bea's, none. One of two neighbour's facts is kept."""

    def row(fact, form="question", hit=0.0, role="target"):
        return make_item(fact, form, hit=hit, role=role)

    rows = [
        row("Ada/pet", hit=1.0), row("Ada/food"), row("Ada/food", "cloze", 1.0),
        row("Bea/pet"), row("Bea/pet", "cloze"), row("Bea/food"),
        row("Bob/pet", hit=1.0, role="neighbour"), row("Bob/food", role="neighbour"),
        row("Cyd/pet", hit=1.0, role="other"), row("Dania/pet", role="general"),
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=ITEMS, orient="row")


def test_several_names_have_their_own_table(reported, make_inputs, two_names):
    """And change nothing in the others: in the main table GA is as in `test_metrics`."""
    alone = reported(make_inputs("alone"), "first")
    assert "Several targets" not in page(alone)
    artifact = reported(
        make_inputs(requests={"Ada + Bea": two_names}), "second",
        grid={"together": [["Ada", "Bea"]]},
    )  # fmt: skip
    for name in (
        "table.csv", "forms.csv", "robustness.csv", "privacy.csv", "cost.csv", "table.md",
        "comparison.csv", "trajectories.csv", "metrics.json",
    ):  # fmt: skip
        assert artifact.file(name).read_bytes() == alone.file(name).read_bytes(), name
    table = page(artifact).split('<h2 id="requests">')[1].split("</table>")[0]
    lines = re.findall(r"<tr[^>]*>(.*?)</tr>", table, re.DOTALL)[1:]
    cells = [
        [" ".join(re.sub(r"<[^>]*>", " ", cell).split())
         for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line, re.DOTALL)]
        for line in lines
    ]  # fmt: skip
    half = r"0.50 [0.00, 1.00] n = 2"
    assert cells == [
        [method, "Ada + Bea", name, *leaks, half, "1.00 n = 1"]
        for method in ("Original", "Gradient ascent")
        for name, leaks in (("Ada", [half, "1.00 n = 2"]), ("Bea", ["0.00 n = 2", "0.00 n = 2"]))
    ]
    stored = pl.read_csv(artifact.file("requests.csv"))
    assert stored.select("method", "name", "target", "worst_form").rows() == [
        ("none", "Ada", 0.5, 1.0), ("none", "Bea", 0.0, 0.0),
        ("ga", "Ada", 0.5, 1.0), ("ga", "Bea", 0.0, 0.0),
    ]  # fmt: skip


def test_a_first_step_that_is_no_target_is_shown(reported, make_inputs, two_names):
    """A sequence's requests are all run, so that they are all reported: Bea's, which the grid does
    not list, beside "Bea, then Ada". Ada's own is in the main table."""
    inputs = make_inputs(requests={"Bea": two_names, "Bea, then Ada": two_names})
    artifact = reported(inputs, grid={"sequences": [["Bea", "Ada"]]})
    stored = pl.read_csv(artifact.file("requests.csv")).filter(pl.col("method") == "ga")
    assert stored.select("request", "name").rows() == [
        ("Bea", "Bea"), ("Bea, then Ada", "Bea"), ("Bea, then Ada", "Ada"),
    ]  # fmt: skip


FOUND = {
    "model": "m", "method": "ga", "values": {"learning_rate": 0.003, "retain.nll": 2.5},
    "trials": 12.0, "failed": 2.0, "tokens": 5432.0, "model_steps": 99.0, "predictor_steps": 0.0,
    "scores": [0.5, 0.25, 0.375, 0.75], "best_so_far": [0.5, 0.5, 0.5, 0.75],
    "complete": False,
    "trial": 4, "score": 0.7, "finals": 8.0, "others": [[], [], [], [0.65]],
}  # fmt: skip


def test_the_page_shows_what_was_searched(reported, make_inputs):
    """GA's chosen values and what they cost; the original's are as they stand in the file. Of 4
    steps at 10 tokens each."""
    lines = rows_of(page(reported(make_inputs(searched=[FOUND]))), "cost")
    assert lines["Original"] == ["0", "0", "0", "–", "–", "as in params.yaml"]
    chosen = "learning_rate = 0.003 retain.nll = 2.5"
    assert lines["Gradient ascent"] == ["4", "0", "40", "12 + 8 2 diverged", "5432", chosen]


def test_the_page_shows_how_every_search_went(reported, make_inputs):
    """Its best after each quarter; it came in the last trial. The CSV has all trials."""
    artifact = reported(make_inputs(searched=[FOUND]))
    table = page(artifact).split("every quarter of the trials")[1].split("</table>")[0]
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", table)
    assert cells == ["0.500", "0.500", "0.500", "0.500", "0.750", "4 of 4", "0.700", "cut short"]
    trials = pl.read_csv(artifact.file("searches.csv"))
    assert trials["score"].to_list() == FOUND["scores"]
    assert "every quarter" not in page(reported(make_inputs("none"), "none/report"))


def test_every_command_on_the_page_is_one(reported, make_inputs):
    """As it stands there, but for a name that the reader gives."""
    methods = ["none", "atu", "ga", "npo", "rmu", "graddiff", "kl_min"]
    text = page(reported(make_inputs(methods=methods), grid={"methods": methods}))
    commands = {html.unescape(words) for words in re.findall("<code>atu (.*?)</code>", text)}
    assert {"answers", "cost", "explain"} <= {command.split()[0] for command in commands}
    for command in commands:
        name, *words = command.split()
        if words:  # the others are talked about
            get_command(cli.app).commands[name].make_context(name, words)


def test_without_a_search_all_settings_are_those_of_the_file(reported, make_inputs):
    text = page(reported(make_inputs()))
    assert rows_of(text, "cost")["Gradient ascent"] == ["4", "0", "40"]
    assert "trials" not in text


def test_predictor_scores(store):
    """Held-out scores of every layer; what was measured on other texts is left out."""
    scores = {
        "layer_1.skill/held_out": 0.25, "layer_1.cosine/held_out": 0.5,
        "layer_12.skill/held_out": 0.75, "layer_12.skill/train": 0.875,
        "layer_3.recovery/select": 1.0,
    }  # fmt: skip
    folder = store(
        "align", "align",
        files={"layer-1/config.json": lambda path: path.write_text("{}", encoding="utf-8")},
        metrics={f"align/{k}": v for k, v in scores.items()},
    )  # fmt: skip
    assert predictor_scores(folder) == [
        (folder.cell, "1", {"skill": 0.25, "cosine": 0.5}),
        (folder.cell, "12, not chosen", {"skill": 0.75}),
    ]


def test_the_page_shows_every_predictor(reported, make_inputs):
    """Beside its cell and its hook layer."""
    lines = rows_of(page(reported(make_inputs())), "parts")
    assert lines["m · Ada · seed 0 · layer 2"] == ["0.600", "0.200", "0.500"]


def test_a_method_that_keeps_the_weights_says_so(reported, make_inputs):
    """On the page and in the table for the README, and of no other method."""
    methods = ("none", "eco", "ga")
    inputs = make_inputs(methods=methods)
    artifact = reported(inputs, "first", grid={"methods": [*methods]})
    table = artifact.file("table.md").read_text(encoding="utf-8")
    assert f"|\n\nECO {GUARDED}.\n" in table
    text = page(artifact)
    assert f"<p><b>ECO</b> {GUARDED}.</p>" in text
    assert text.count(GUARDED) == table.count(GUARDED) == 1
    plain = reported(make_inputs("plain"), "second")
    assert GUARDED not in page(plain)
    assert GUARDED not in plain.file("table.md").read_text(encoding="utf-8")


def test_below_the_table_stands_whose_align_then_unlearn_a_row_is(reported, make_inputs):
    """The miniature's: quantiles of measured cosines, with its retain terms and AdamW."""
    methods = ("none", "atu", "ga")
    artifact = reported(make_inputs(methods=methods), grid={"methods": [*methods]})
    ours = (
        "is this project's Align-then-Unlearn: thresholds from measured cosines, NLL, held states, "
        "the hinge at answers, hidden states as of a stranger (also in neighbours' texts), "
        "the same from restored states, AdamW"
    )
    table = artifact.file("table.md").read_text(encoding="utf-8")
    assert f"|\n\nATU {ours}.\n" in table
    assert f"<p><b>ATU</b> {ours}.</p>" in html.unescape(page(artifact))


def test_what_failed_is_marked_with_its_reason(monkeypatch, reported, make_inputs):
    """At its title in every table that shows it, and once below each; elsewhere nothing."""
    key = "privacy/forget.membership_loss@faithful-1.auc@own-1"
    failing = Trust(key, 12, 12, 0.4, 0.3, 0.5, 0, None, None, None)
    monkeypatch.setattr(marks, "measured", lambda: [failing])
    artifact = reported(make_inputs(attacks={"lens": 0.0}))
    text, table = page(artifact), artifact.file("privacy.md").read_text(encoding="utf-8")
    assert text.count("‡") == 2 and "AUC, loss ‡" in rows_of(text, "privacy", 1)
    assert "| AUC, loss ‡ |" in table and table.endswith("(docs/metrics.md).\n")
    assert "‡" not in artifact.file("robustness.md").read_text(encoding="utf-8")


def test_a_grid_with_pools_says_which_numbers_can_be_trusted(reported, make_inputs, make_items):
    """Four targets with the original and the oracle. The worst form is .5 of every model here, so
    it fails; three are too few, and then there is no such section."""
    names = ["Ada", "Bea", "Eve", "Ivy"]
    requests = {name: make_items(name) for name in names[1:]}
    inputs = make_inputs(methods=("none", "oracle", "ga"), requests=requests)
    grid = {"methods": ["none", "oracle", "ga"]}
    artifact = reported(inputs, grid=grid | {"targets": names})
    found = {row.key: row for row in trust.read(artifact.file("trust.csv"))}
    row = found["rephrase/target.worst.exact_match@own-2"]
    assert (row.knowing, row.ignorant, row.faithfulness, row.failed) == (4, 4, 0.5, True)
    lines = rows_of(page(artifact), "trust")
    assert lines[f"{row.key} ‡"][:3] == ["4", "4", "0.50 [0.50, 0.50]"]
    fewer = reported(inputs, "fewer", grid=grid | {"targets": names[:3], "together": [names]})
    assert "trust.csv" not in fewer.manifest["artifacts"]
    assert "can be trusted here" not in page(fewer)
