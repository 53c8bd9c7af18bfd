"""This host in numbers, and the versions of what it is made of. Reads only."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hostctl import __version__
from hostctl.agent import generation, overview, usage
from hostctl.agent.machine import Machine, release_version
from hostctl.agent.overview import WorkloadStatus
from hostctl.errors import HostctlError
from hostctl.image.store import ImageStore
from hostctl.layout import HostLayout
from hostctl.run import run

VERSION_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Versions:
    """What runs here; empty where there is no such thing."""

    hostctl: str
    release: str
    kernel: str
    systemd: str
    crun: str
    python: str
    api: str = "org.hostctl.Host1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """How many workloads there are, by what they do."""

    workloads: int
    running: int
    paused: int
    stopped: int
    unhealthy: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Info:
    """The host; sizes in bytes."""

    hostname: str
    versions: Versions
    counts: Counts
    images: int
    generation: int
    volumes: int
    processors: int
    memory: int
    architecture: str
    runtime: str = "crun"
    root_files: str = "overlay over EROFS"
    cgroup: str = "systemd, version 2"
    logs: str = "journald"
    state: str = "/var/lib/hostctl"


def _first_word(argv: list[str], position: int) -> str:
    """Return a word of a program's first line; nothing when there is no such program."""
    try:
        words = run(argv, timeout=VERSION_SECONDS).text.partition("\n")[0].split()
    except HostctlError:
        return ""
    return words[position] if len(words) > position else ""


def versions(layout: HostLayout) -> Versions:
    """Ask every program for its version."""
    return Versions(
        hostctl=__version__,
        release=release_version(layout.root),
        kernel=platform.release(),
        systemd=_first_word(["systemctl", "--version"], 1),
        crun=_first_word(["crun", "--version"], 2),
        python=platform.python_version(),
    )


def count(rows: Iterable[WorkloadStatus]) -> Counts:
    """Count workloads by their states."""
    words = [row.word for row in rows]
    unhealthy = sum(row.health == "unhealthy" for row in rows)
    running, paused = words.count("running"), words.count("paused")
    return Counts(
        workloads=len(words),
        running=running,
        paused=paused,
        stopped=len(words) - running - paused,
        unhealthy=unhealthy,
    )


def info(layout: HostLayout, machine: Machine) -> Info:
    """Return the host in numbers. Volumes are -1 for who may not look."""
    stored = generation.current(layout)
    return Info(
        hostname=platform.node(),
        versions=versions(layout),
        counts=count(overview.list_workloads(layout, machine)),
        images=len(ImageStore(layout.images, layout.baked_images).list()),
        generation=stored.record.number if stored else 0,
        volumes=_entries(layout.volumes),
        processors=os.cpu_count() or 1,
        memory=usage.host_memory(layout.root),
        architecture=platform.machine(),
    )


def _entries(folder: Path) -> int:
    try:
        return sum(1 for _ in folder.iterdir())
    except FileNotFoundError:
        return 0
    except PermissionError:
        return -1
