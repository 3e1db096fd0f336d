"""The models that a command is given, pinned by their sha256 in its work folder."""

from __future__ import annotations

import sys
from pathlib import Path

from atu.config.fetching import model_lock, settle_lock
from atu.config.plain import make_plain, needs_plain
from atu.errors import ConfigError, SourceError, visible
from atu.models.folders import refuse_file
from atu.models.pinned import split_revision
from atu.results.locks import Source
from atu.untrusted.texts import is_folder
from atu.workfolder.folder import LOCKS


def pin_model(
    option: str, given: str, work: Path, made: Path, *, offline: bool, adapter: bool = False
) -> Source:
    """The source of a model: a folder, a GGUF file or package as a folder of its own, or a
    repository of the hub; its lock is named after the option.

    Args:
        given: the option's value.
        made: where a GGUF file or a package becomes a folder.
        adapter: whether it may be one.

    Raises:
        ConfigError: there is no such model.
        SourceError: it is not to be had, or another one is locked in the work folder.
    """
    place, revision = split_revision(given)
    if needs_plain(place):
        make_plain(Source(place, revision, ""), made, offline=offline)
        place, revision = str(made), None
    refuse_file(Path(place))
    if is_folder(Path(place)):
        place = str(Path(place).resolve())
    elif place.startswith((".", "/", "~")) or place.count("/") != 1:
        raise ConfigError(
            option, given, "no such folder, and no `owner/name` of the hub; name the folder of a "
            "Hugging Face model"
        )  # fmt: skip
    source = Source(place, revision, str(work / LOCKS / f"{option.removeprefix('--')}.json"))
    try:
        lock = model_lock(source, offline, False, False, adapter=adapter)
    except SourceError as error:
        if not offline:
            raise
        raise SourceError(f"{error}; or leave out --offline here, and it is downloaded") from None
    try:
        print(visible(settle_lock(source, lock, False)), file=sys.stderr)
    except SourceError as error:
        raise SourceError(f"{error}; for another model name another --out or --work") from None
    return source
