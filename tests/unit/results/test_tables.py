import polars as pl
import pytest

from atu.benchmarks.world.people import build_world
from atu.benchmarks.world.texts import TEXT_COLUMNS, probes
from atu.errors import ArtifactError
from atu.results.tables import (
    MAX_ROWS,
    PROBES,
    TEXTS,
    read_frame,
    read_table,
    read_text_column,
    write_table,
)

EMPTY = {pl.String: "", pl.Int64: 0, pl.Boolean: False, pl.List(pl.String): []}
KINDS = pytest.mark.parametrize("schema", [TEXTS, PROBES], ids=["texts", "probes"])


def row(schema, **own):
    return {name: EMPTY[kind] for name, kind in schema.items()} | own


@KINDS
def test_round_trip(tmp_path, schema):
    """Columns in the schema's order, whatever the rows' order of keys; lists stay lists."""
    text = next(name for name, kind in schema.items() if kind == pl.String)
    many = next(name for name, kind in schema.items() if kind == pl.List(pl.String))
    rows = [row(schema, **{text: 'a€ "b"\nc', many: ["x", "y"]}), row(schema)]
    write_table(tmp_path / "t.parquet", [dict(reversed(r.items())) for r in rows], schema)
    found = read_table(tmp_path / "t.parquet")
    assert found == rows
    assert [list(r) for r in found] == [list(schema)] * 2


@KINDS
def test_the_same_rows_give_the_same_bytes(tmp_path, schema):
    for name in ("first", "second"):
        write_table(tmp_path / name, [row(schema)] * 3, schema)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


@KINDS
def test_an_empty_table_keeps_its_types(tmp_path, schema):
    write_table(tmp_path / "t.parquet", [], schema)
    assert read_table(tmp_path / "t.parquet") == []
    assert pl.read_parquet(tmp_path / "t.parquet").schema == pl.Schema(schema)


def test_a_value_of_another_type_is_refused(tmp_path):
    with pytest.raises((TypeError, pl.exceptions.PolarsError)):
        write_table(tmp_path / "t.parquet", [row(PROBES, phrasing="first")], PROBES)


def test_the_columns_are_those_of_the_world():
    world = build_world(0, 8)
    assert tuple(TEXTS) == TEXT_COLUMNS
    assert all(tuple(p) == tuple(PROBES) for p in probes(world, world.facts[0], "target", 0))


@pytest.mark.parametrize(
    "columns", [{"text": [1]}, {"text": ["x"], "evil": ["y"]}, {"text": [None]}, {}]
)
def test_other_columns_are_refused(tmp_path, columns):
    pl.DataFrame(columns).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(ArtifactError, match=r"t\.parquet: has other columns"):
        read_table(tmp_path / "t.parquet")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"\xff" * 64 + b"PAR1", b"\x80\x04."])
def test_what_is_no_parquet_is_refused(tmp_path, content):
    (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"t\.parquet: cannot be read as parquet"):
        read_table(tmp_path / "t.parquet")


def test_a_small_file_of_endless_rows_is_refused_before_it_is_unpacked(tmp_path):
    """Ten million and one equal rows compress to less than a megabyte."""
    path = tmp_path / "t.parquet"
    pl.select(pl.repeat(True, MAX_ROWS + 1).alias("x")).write_parquet(path, compression="zstd")
    assert path.stat().st_size < 2**20
    with pytest.raises(ArtifactError, match="claims 10000001 rows"):
        read_frame(path)
    with pytest.raises(ArtifactError, match="claims"):
        read_text_column(path, "text")


def test_a_column_of_texts_is_read_alone(tmp_path):
    """Nulls are kept; a column of another type is none."""
    path = tmp_path / "x.parquet"
    pl.DataFrame({"text": ["a", None], "id": [1, 2]}).write_parquet(path)
    assert read_text_column(path, "text") == ["a", None]
    for column in ("id", "body"):
        with pytest.raises(ArtifactError, match=rf"no column '{column}' of texts but text \(S"):
            read_text_column(path, column)
