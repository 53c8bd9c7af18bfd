"""Which files of a bundle its container is shown; all others are root's alone on the host.

Pure. Whoever reads a generation imports this, so it imports nothing.
"""

from __future__ import annotations

ETC_FILES = ("hostname", "hosts", "resolv.conf")
CONFIG = "config-"  # not "config.": a config may be called "json"


def config_file(name: str) -> str:
    """Return the name of a config's file in the bundle."""
    return f"{CONFIG}{name}"


def mode(file: str) -> int:
    """Return the permissions of a file of the bundle: the workload's users read what is mounted for them.

    Anything else may hold its environment, and what is in that may be a secret.
    """
    return 0o644 if file in ETC_FILES or file.startswith(CONFIG) else 0o600
