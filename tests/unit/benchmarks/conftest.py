"""Benchmarks from made files: locked by what they hold, read as jobs read them."""

from pathlib import Path

import pytest

from atu import benchmarks
from atu.benchmarks.shared.source import Reader, open_readers, sources_of
from atu.phases.prepare import require_content
from atu.results.locks import Lock, Source


@pytest.fixture
def make_source(tmp_path):
    """A function that gives the source of a folder, or of what stands at a place."""
    return lambda place, name="lock": Source(str(place), None, str(tmp_path / f"{name}.json"))


@pytest.fixture
def tables_of():
    """A function that locks a benchmark's sources and gives `Shared` and `Prepared` of a target, as
    the phase prepare takes them."""

    def run(settings, target):
        benchmark = benchmarks.get(settings.benchmark)
        found = {n: Reader(s, Lock(), record=True) for n, s in sources_of(settings).items()}
        corpus = benchmark.shared(settings, found).corpus
        benchmark.prepare(settings, target, corpus, found)
        for reader in found.values():
            reader.lock.write(Path(reader.source.lock))
        readers = open_readers(settings)
        shared = benchmark.shared(settings, readers)
        prepared = benchmark.prepare(settings, target, shared.corpus, readers)
        require_content(prepared, target)
        return shared, prepared

    return run
