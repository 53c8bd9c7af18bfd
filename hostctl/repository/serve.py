"""Serves a repository over HTTP for trying it out, by aiohttp: static files, with ranges and conditional requests.

Not for production: there it is a web server's or a CDN's business, the files need nothing of ours.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from pathlib import Path

from hostctl.errors import HostctlError
from hostctl.repository.store import Store

log = logging.getLogger("hostctl.serve")
SERVED = ("metadata", "targets", "payloads")


class ServeError(HostctlError):
    """The server cannot be started."""

    id = "serve"


def serve(repository: Path, address: str, port: int, ready: Callable[[str], None], *, requests: bool = False) -> None:
    """Serve a repository until SIGINT or SIGTERM.

    Args:
        repository: the folder, which may change meanwhile.
        address: to listen at.
        port: 0 takes a free one.
        ready: called with the URL once requests are answered.
        requests: log every request.

    Raises:
        NoRepositoryError, MetadataError: the folder is no repository.
        ServeError: aiohttp is not installed, or the address cannot be used.
    """
    Store.open(repository)
    for name in SERVED:
        (repository / name).mkdir(exist_ok=True)
    if requests:
        log.setLevel(logging.INFO)
    asyncio.run(_serve(repository, address, port, ready))


async def _serve(repository: Path, address: str, port: int, ready: Callable[[str], None]) -> None:
    try:
        from aiohttp import web  # noqa: PLC0415 - an extra, needed by this verb alone
    except ImportError as error:
        raise ServeError(
            "the server for trying out is not installed",
            details=str(error),
            hint="pip install 'hostctl[serve]', or use any web server: the files are static",
        ) from error
    app = web.Application()
    for name in SERVED:
        app.router.add_static(f"/{name}", repository / name)
    runner = web.AppRunner(app, access_log=log, access_log_format='%a "%r" %s %b')
    await runner.setup()
    try:
        site = web.TCPSite(runner, address, port)
        try:
            await site.start()
        except OSError as error:
            raise ServeError(f"cannot listen at {address}:{port}", details=str(error)) from error
        stopped = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        bound = runner.addresses[0]
        host = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        ready(f"http://{host}:{bound[1]}/")
        await stopped.wait()
    finally:
        await runner.cleanup()
