"""Names of the two instances of a workload that is started beside the running one: NAME.a and NAME.b, by turns.

Pure. A workload that is stopped first has one instance, without a letter, which is called as the workload is. No
workload's name has a dot in it, so neither can be taken for another.
"""

from __future__ import annotations

FIRST = "a"
INSTANCES = ("a", "b")


def key(name: str, instance: str) -> str:
    """Return what the units, folders and namespaces of an instance are called by."""
    return f"{name}.{instance}" if instance else name


def split(key: str) -> tuple[str, str]:
    """Return workload and letter of what :func:`key` made.

    Raises:
        ValueError: it made no such thing.
    """
    name, dot, instance = key.partition(".")
    if dot and instance not in INSTANCES:
        raise ValueError(f"{key!r} is no instance of a workload")
    return name, instance


def name_of(key: str) -> str:
    """Return the workload of an instance."""
    return key.partition(".")[0]


def other(instance: str) -> str:
    """Return the letter that takes turns with ``instance``."""
    return "b" if instance == "a" else "a"


def keys(name: str) -> tuple[str, ...]:
    """Return what any instance of a workload may be called."""
    return (name, *(key(name, letter) for letter in INSTANCES))
