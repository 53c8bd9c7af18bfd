"""Tells a test outside of the machine where an update stands, and waits until it may go on.

Only with a virtio port of the agreed name, which nothing but the fault harness gives a machine. The machine's owner can
make it wait a minute an edge by that; whoever can add devices to a machine can do worse.
"""

from __future__ import annotations

import logging
import os
import select
import stat
import sys
from pathlib import Path

from hostctl.update.stages import EDGES, Stage

log = logging.getLogger(__name__)

PORT = Path("/dev/virtio-ports/org.hostctl.stages")
ANSWER_SECONDS = 60.0


def reach(stage: Stage, edge: str, port: Path = PORT) -> None:
    """Write ``STAGE EDGE`` to the port and wait for one byte; without the port, do nothing.

    Args:
        stage: where the work stands.
        edge: one of the stage's :data:`~hostctl.update.stages.EDGES`.
        port: the character device.

    Raises:
        ValueError: the stage has no such edge.
    """
    if edge not in EDGES[stage]:
        raise ValueError(f"{stage} has no edge {edge!r}")
    try:
        if not stat.S_ISCHR(port.stat().st_mode):
            return
        descriptor = os.open(port, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:  # a harness that went away must not stop an update
        log.warning("stage port %s: %s", port, error)
        return
    try:
        _ask(descriptor, f"{stage.value} {edge}\n".encode())
    except OSError as error:
        log.warning("stage port %s: %s", port, error)
    finally:
        os.close(descriptor)


def _ask(descriptor: int, line: bytes) -> None:
    while line:
        line = line[os.write(descriptor, line) :]
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    if waiting.poll(ANSWER_SECONDS * 1000):
        os.read(descriptor, 1)
    else:
        log.warning("stage port: no answer within %g s", ANSWER_SECONDS)


if __name__ == "__main__":  # for units: STAGE EDGE
    reach(Stage(sys.argv[1]), sys.argv[2])
