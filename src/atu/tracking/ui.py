"""MLflow's UI for a store that has no server, on this machine, with addresses that open our views.

MLflow opens its assistant on a first visit, over a quarter of the window, and the menu for chat
applications. Nothing but the browser's own storage changes that, and only a page of the same
address may write there. So this process serves the UI, with one page more for each view, and the
report's own, to which the descriptions of runs link.
"""

from __future__ import annotations

import os
import webbrowser
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from atu.errors import TrackingError
from atu.tracking.connection import artifacts, connected, is_database, mask, tracking_uri
from atu.tracking.records import page_path
from atu.tracking.view import MODES, view_address

GO_ON = """<!doctype html>
<meta charset="utf-8">
<title>MLflow</title>
<script>
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
localStorage.setItem("mlflow.workflowType_v1", '"machine_learning"');
location.replace("%s");
</script>
"""
ALONE = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; img-src data:; sandbox allow-scripts"
}
"""It holds what models wrote: nothing in it reaches MLflow, which has the same address."""


def serve(experiment: str, report: Path, host: str, port: int, opened: bool) -> None:
    """Print the addresses of an experiment's views and serve them until interrupted; a store that
    is a server serves itself.

    Args:
        report: the report's page.
        opened: also in a browser.

    Raises:
        TrackingError: the store cannot be reached, or is a server that lacks the experiment.
    """
    number = _number(experiment)
    if is_database(tracking_uri()):
        _run(experiment, report, host, port, opened)
    elif number is None:
        raise TrackingError(f"MLflow at {mask(tracking_uri())}: no experiment {experiment!r}")
    else:
        server = urlsplit(tracking_uri())
        open_to_all = server._replace(netloc=server.netloc.rpartition("@")[2]).geturl().rstrip("/")
        _say({mode: open_to_all + view_address(number, mode) for mode in MODES}, opened)


def _number(experiment: str) -> str | None:
    with connected() as client:
        found = client.get_experiment_by_name(experiment)
    return found and found.experiment_id


def _say(addresses: dict[str, str], opened: bool) -> None:
    for mode, address in addresses.items():
        print(f"{mode + ':':9}{address}", flush=True)
    if opened:
        webbrowser.open(next(iter(addresses.values())))


def _run(experiment: str, report: Path, host: str, port: int, opened: bool) -> None:
    import uvicorn

    paths = {mode: f"/{mode}" for mode in MODES} | {"report": page_path(report)}
    addresses = {name: f"http://{host}:{port}{path}" for name, path in paths.items()}

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            _say(addresses, opened)

    config = uvicorn.Config(_app(experiment, report), host=host, port=port, log_level="warning")
    Server(config).run()


def _app(experiment: str, report: Path) -> Any:
    """MLflow's application, with our pages before its own."""
    from mlflow.server.constants import ARTIFACT_ROOT_ENV_VAR, BACKEND_STORE_URI_ENV_VAR

    os.environ[BACKEND_STORE_URI_ENV_VAR] = tracking_uri()
    os.environ[ARTIFACT_ROOT_ENV_VAR] = artifacts()
    from mlflow.server.fastapi_app import app
    from starlette.routing import Route

    pages = [Route(f"/{mode}", partial(_view, experiment, mode)) for mode in MODES]
    app.router.routes[:0] = [*pages, Route(page_path(report), partial(_report, report))]
    return app


def _report(page: Path, request: Any) -> Any:
    from starlette.responses import FileResponse, PlainTextResponse

    if not page.is_file():
        return PlainTextResponse(f"no {page} yet: run `snakemake report`", 404)
    return FileResponse(page, headers=ALONE)


def _view(experiment: str, mode: str, request: Any) -> Any:
    """Closes the assistant, takes the menu for trained models, and goes on to the view."""
    from starlette.responses import HTMLResponse, PlainTextResponse

    number = _number(experiment)
    if number is None:
        return PlainTextResponse(f"no experiment {experiment!r} yet: run `snakemake track`", 404)
    return HTMLResponse(GO_ON % view_address(number, mode))
