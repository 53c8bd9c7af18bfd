"""``hostctl hostd``: the agent behind org.hostctl.Host1, started by systemd when somebody asks for it."""

from __future__ import annotations

import argparse
import signal

from hostctl.agent import bus, service
from hostctl.layout import HostLayout


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--idle", type=float, default=bus.IDLE, metavar="SECONDS", help="end after so long without a call"
    )


def run(arguments: argparse.Namespace) -> int:
    """Answer until idle."""
    service.run(HostLayout(), idle=arguments.idle, leave=_leave)
    return 0


def _leave() -> None:
    """Be deaf to what systemd sends when the bus name is gone: calls that had come in are still answered."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
