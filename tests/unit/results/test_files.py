import pytest

from atu.results.files import write_whole


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    """Half a surrogate pair cannot be encoded: what stood there stands."""
    file = tmp_path / "params.yaml"
    write_whole(file, "a: 1\n")
    with pytest.raises(UnicodeEncodeError):
        write_whole(file, "b: " + "2" * 100_000 + "\ud800")
    assert file.read_text("utf-8") == "a: 1\n"
