"""Names of the containers of a workload, where there is more than one of them. Pure.

A workload that is started beside the running one has two instances by turns: NAME.a and NAME.b. One with replicas has
NAME, NAME.2, NAME.3 and so on: the first is called as the workload is, so that it stays what it is when others come or
go. People call it NAME.1, as long as there are others. Any other workload has one container, which is called as it is.
No workload's name has a dot in it, so none of these can be taken for another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

RUN = "run-"  # what the names of workloads begin with that were run without being declared
FIRST = "a"
INSTANCES = ("a", "b")
LABEL = "org.hostctl.label."  # before a label's name in a bundle, so that none is an annotation that crun acts on
_REPLICA = re.compile(r"[2-9]|[1-9][0-9]{1,2}")


def key(name: str, instance: str) -> str:
    """Return what the units, folders and namespaces of an instance are called by."""
    return f"{name}.{instance}" if instance else name


def split(key: str) -> tuple[str, str]:
    """Return workload and letter or number of what :func:`key` made.

    Raises:
        ValueError: it made no such thing.
    """
    name, dot, instance = key.partition(".")
    if dot and instance not in INSTANCES and not is_replica(instance):
        raise ValueError(f"{key!r} is no instance of a workload")
    return name, instance


def name_of(key: str) -> str:
    """Return the workload of an instance."""
    return key.partition(".")[0]


def other(instance: str) -> str:
    """Return the letter that takes turns with ``instance``."""
    return "b" if instance == "a" else "a"


def keys(name: str) -> tuple[str, ...]:
    """Return what any instance of a workload without replicas may be called."""
    return (name, *(key(name, letter) for letter in INSTANCES))


def is_replica(instance: str) -> bool:
    """Tell whether an instance is a replica besides the first."""
    return _REPLICA.fullmatch(instance) is not None


def numbers(count: int) -> tuple[str, ...]:
    """Return the instances of a workload with so many replicas, the first one's first."""
    return ("", *(str(number) for number in range(2, count + 1)))


def position(instance: str) -> int:
    """Return the number of a replica, from 1 on."""
    return int(instance) if is_replica(instance) else 1


def label(key: str, count: int) -> str:
    """Return what people call an instance of a workload with so many replicas."""
    name, _, instance = key.partition(".")
    return f"{name}.{position(instance)}" if count > 1 else name


def labels(keys: Iterable[str]) -> Mapping[str, str]:
    """Return what people call each instance, given those of all workloads."""
    known = tuple(keys)
    several = {name_of(each) for each in known if is_replica(each.partition(".")[2])}
    return {each: label(each, 2 if name_of(each) in several else 1) for each in known}
