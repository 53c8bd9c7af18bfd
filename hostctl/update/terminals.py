"""People at terminals of this host, and a way to tell them something.

Nobody can log in at a console here, and logind knows of no sessions, so people are where a pseudo terminal of the
host's own is: one for each of their shells over SSH. Terminals inside containers are not among them, those are of other
instances of devpts. The console is told too, for whoever looks at it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

PSEUDO = Path("/dev/pts")
CONSOLE = Path("/dev/console")


def in_use(folder: Path = PSEUDO) -> tuple[Path, ...]:
    """Return the terminals that people have open."""
    try:
        return tuple(sorted(path for path in folder.iterdir() if path.name.isdigit()))
    except OSError:
        return ()


def tell(text: str, folder: Path = PSEUDO, console: Path = CONSOLE) -> int:
    """Write a line to all terminals and the console, and return how many took it. Nobody is waited for.

    Args:
        text: one line of printable text.
        folder: where the pseudo terminals are.
        console: the system console.
    """
    return sum(_write(path, f"\r\n{text}\r\n".encode()) for path in (*in_use(folder), console))


def _write(path: Path, data: bytes) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if not stat.S_ISCHR(os.fstat(descriptor).st_mode):
            return False
        return os.write(descriptor, data) == len(data)
    except OSError:  # closed just now, or stopped by ^S and full
        return False
    finally:
        os.close(descriptor)
