"""``bespoke serve``, ``worker`` and ``keys``: the service's own commands."""

from __future__ import annotations

import gc
import json
import logging
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated, Any

import typer

from bespoke.cli.asking import Json
from bespoke.supernet.errors import Unavailable

keys_app = typer.Typer(help="API keys of the service.", no_args_is_help=True)

Var = Annotated[Path | None, typer.Option(help="Folder of the database and the artifacts [BESPOKE_VAR].")]
Zoo = Annotated[Path | None, typer.Option(help="Another zoo's folder [BESPOKE_ZOO].")]

SWITCH_S = 0.001
"""How long a thread that searches may keep the one waiting that speaks HTTP; Python itself says 5 ms."""

COLLECTED_AFTER = 20_000
"""Objects that are made before cycles are looked for; Python says 700, which took a tenth of a search."""


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(serve)
    app.command()(worker)
    app.add_typer(keys_app, name="keys")


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on [BESPOKE_HOST].")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 for any free one [BESPOKE_PORT].")] = None,
    var: Var = None,
    zoo: Zoo = None,
    embedded: Annotated[
        bool | None,
        typer.Option(
            "--embedded-worker/--no-embedded-worker",
            help="Run jobs in this process, or leave them to `bespoke worker` [BESPOKE_EMBEDDED_WORKER].",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Serve the API. Every setting is also an environment variable with the prefix BESPOKE_."""
    import uvicorn

    from bespoke.service.app import create_app

    settings = _settings(host=host, port=port, var=var, zoo=zoo, embedded_worker=embedded)
    _log()
    sys.setswitchinterval(SWITCH_S)
    app = create_app(settings)
    gc.freeze()  # what is imported stays: a collection that looks through it holds requests up
    gc.set_threshold(COLLECTED_AFTER)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        # A client that holds its connection open must not hold up the end.
        timeout_graceful_shutdown=5,
    )
    try:
        socket = config.bind_socket()
    except SystemExit:  # It has logged why.
        raise Unavailable(
            f"cannot listen on {settings.host}, port {settings.port}: see the line above, and give another "
            "--port or --host"
        ) from None
    address, bound = socket.getsockname()[:2]
    url = f"http://{'[' + address + ']' if ':' in address else address}:{bound}"
    print(json.dumps({"url": url}) if as_json else f"Bespoke is at {url} (API: {url}/docs)", flush=True)
    # The server raises the signal again once it has shut down; by then the end is a good one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
    uvicorn.Server(config).run(sockets=[socket])


def worker(
    name: Annotated[str | None, typer.Option(help="Name of this worker [BESPOKE_WORKER_ID].")] = None,
    var: Var = None,
    zoo: Zoo = None,
) -> None:
    """Run jobs beside a `bespoke serve --no-embedded-worker` that shares the database and artifacts."""
    from bespoke.service.worker import work

    settings = _settings(worker_id=name, var=var, zoo=zoo, embedded_worker=False)
    _log()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    work(settings, stop)


@keys_app.command("create")
def create(
    scope: Annotated[
        list[str], typer.Option(help="What it opens: search, device:admin, agent. May be repeated.")
    ],
    name: Annotated[str, typer.Option(help="A note for people.")] = "",
    var: Var = None,
    as_json: Json = False,
) -> None:
    """Make a key and print it: it is shown this once."""
    from bespoke.service.auth import create_key

    key = create_key(_store(var), scope, name)
    if as_json:
        print(json.dumps({"key": key.text, "prefix": key.prefix, "name": key.name, "scopes": key.scopes}))
    else:
        print(key.text)


@keys_app.command("list")
def list_keys(var: Var = None, as_json: Json = False) -> None:
    """Show all keys by their prefix; their secrets are not kept."""
    keys = [
        {
            "prefix": key.prefix,
            "name": key.name,
            "scopes": key.scopes,
            "created_at": key.created_at.isoformat(),
            "revoked_at": key.revoked_at.isoformat() if key.revoked_at else None,
        }
        for key in _store(var).list_keys()
    ]
    if as_json:
        print(json.dumps(keys))
        return
    for key in keys:
        state = f"revoked {key['revoked_at']}" if key["revoked_at"] else "open"
        print(f"bsp_{key['prefix']}  {','.join(key['scopes'] or ()):28} {state:10} {key['name']}")


@keys_app.command("revoke")
def revoke(
    prefix: Annotated[str, typer.Argument(help="The key's prefix, with or without `bsp_`.")],
    var: Var = None,
    as_json: Json = False,
) -> None:
    """Close a key for ever."""
    key = _store(var).revoke_key(prefix.removeprefix("bsp_").partition("_")[0])
    at = key.revoked_at.isoformat() if key.revoked_at else None
    print(json.dumps({"prefix": key.prefix, "revoked_at": at}) if as_json else f"revoked bsp_{key.prefix}")


def _settings(**given: Any) -> Any:
    from bespoke.service.settings import Settings

    return Settings(**{name: value for name, value in given.items() if value is not None})


def _store(var: Path | None) -> Any:
    from sqlalchemy.exc import DBAPIError

    from bespoke.service.migrations import upgrade
    from bespoke.service.orm import open_database
    from bespoke.service.store import Store

    engine = open_database(_settings(var=var).database)
    try:
        upgrade(engine)
    except DBAPIError as error:
        why = " ".join(str(error.orig).split())
        raise Unavailable(
            f"the database {engine.url!r} cannot be opened ({why}); is it there, and --var or "
            "BESPOKE_DATABASE_URL right?"
        ) from error
    return Store(engine)


def _log() -> None:
    from bespoke.service.middleware import JsonLines

    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)
