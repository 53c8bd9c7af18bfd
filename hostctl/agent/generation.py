"""Generations on the disk: complete, immutable, numbered renderings of a declaration.

One is written under a passing name, flushed, and renamed into place; ``current`` is swapped by one rename. A crash
leaves the former generation in force and at most a folder ``N.tmp``, which the next agent removes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from hostctl import durable
from hostctl.agent.tree import File, Tree, write
from hostctl.errors import HostctlError
from hostctl.layout import HostLayout
from hostctl.workload import instance, shown

KEEP = 5  # generations that stay on the disk besides the one in force
ASIDE = ".newer"  # ends the name of one that is not gone back to, because only a newer release can read it


class GenerationError(HostctlError):
    """A generation on the disk cannot be read."""

    id = "generation-unreadable"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pin:
    """The image that a workload's reference stood for when the generation was made."""

    reference: str
    digest: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What ``generation.json`` holds."""

    number: int
    created: str
    release: str
    declaration_sha256: str
    images: Mapping[str, Pin] = field(default_factory=dict)
    mounted: Mapping[str, Pin] = field(default_factory=dict)
    """Images that are volumes, by ``WORKLOAD:/path``."""
    uids: Mapping[str, int] = field(default_factory=dict)
    ranges: Mapping[str, int] = field(default_factory=dict)
    instances: Mapping[str, str] = field(default_factory=dict)
    """The letter of the live instance, of each workload that is started beside the running one when it changes."""
    replicas: Mapping[str, int] = field(default_factory=dict)
    """The number of containers, of each workload that has several."""
    withheld: bool = False
    """Whether its workloads were left out, because their images are not here; see :mod:`hostctl.agent.withheld`."""

    def key(self, name: str) -> str:
        """Return what units, folders and namespaces of a workload, or of one of its replicas, are called by.

        Args:
            name: of the workload, which stands for its first replica, or NAME.n.
        """
        return (self.named(name) or self.keys(name))[0]

    def keys(self, workload: str) -> tuple[str, ...]:
        """Return what the units, folders and namespaces of all containers of a workload are called by."""
        letter = self.instances.get(workload)
        if letter:
            return (instance.key(workload, letter),)
        return tuple(instance.key(workload, each) for each in instance.numbers(self.replicas.get(workload, 1)))

    def called(self, text: str) -> str:
        """Return the name of a workload that was run when it is given without what such names begin with."""
        name, full = instance.name_of(text), f"{instance.RUN}{text}"
        return full if name not in self.images and instance.name_of(full) in self.images else text

    def named(self, text: str) -> tuple[str, ...]:
        """Return the containers that people mean by the name of a workload or of a replica; none if there are none."""
        name, dot, number = self.called(text).partition(".")
        if name not in self.images:
            return ()
        if not dot:
            return self.keys(name)
        count = self.replicas.get(name, 1)
        return tuple(key for key in self.keys(name) if count > 1 and instance.label(key, count) == f"{name}.{number}")

    def label(self, key: str) -> str:
        """Return what people call a container of this generation."""
        return instance.label(key, self.replicas.get(instance.name_of(key), 1))

    def range_of(self, key: str) -> int:
        """Return the number of the user id range of a container: replicas have their own, instances share one."""
        return self.ranges[key if key in self.ranges else instance.name_of(key)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Renewed:
    """Images that workloads get although they are declared as they were, by workload.

    ``generation`` is the one in force when they were looked up; in any other they mean nothing.
    """

    generation: int
    pins: Mapping[str, Pin]


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """What is decided of a generation before it is rendered."""

    number: int
    instances: Mapping[str, str] = field(default_factory=dict)
    """As in the record."""
    leaving: tuple[str, ...] = ()
    """The former generation's instances, by name and letter, that stay until the new ones have taken their place."""
    renewed: Mapping[str, Pin] = field(default_factory=dict)
    """Images that workloads get although their references did not change, by workload or ``WORKLOAD:/path``."""
    withheld: bool = False
    """As in the record."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """A whole generation as values."""

    record: Record
    declaration: str
    etc: Tree
    bundles: Mapping[str, Mapping[str, bytes]]
    network: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """A generation as it lies on the disk."""

    record: Record
    path: Path

    @property
    def declaration(self) -> str:
        """The declaration as it was written.

        Raises:
            GenerationError: the caller may not read it; environment variables in it may be secrets.
        """
        try:
            return (self.path / "host.yaml").read_text()
        except PermissionError as error:
            raise GenerationError("only root may read this host's declaration", hint="use sudo") from error


def _encode_pins(pins: Mapping[str, Pin]) -> dict[str, dict[str, str]]:
    return {name: {"reference": pin.reference, "digest": pin.digest} for name, pin in pins.items()}


def _decode_pins(document: Mapping[str, Mapping[str, object]]) -> dict[str, Pin]:
    return {
        str(name): Pin(reference=str(pin["reference"]), digest=str(pin["digest"])) for name, pin in document.items()
    }


def encode(record: Record) -> bytes:
    """Return the bytes of ``generation.json``."""
    document = {
        "number": record.number,
        "created": record.created,
        "release": record.release,
        "declaration_sha256": record.declaration_sha256,
        "images": _encode_pins(record.images),
        "mounted": _encode_pins(record.mounted),
        "uids": dict(record.uids),
        "ranges": dict(record.ranges),
        "instances": dict(record.instances),
        "replicas": dict(record.replicas),
        "withheld": record.withheld,
    }
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def decode(data: bytes) -> Record:
    """Return the record that ``generation.json`` holds.

    Raises:
        ValueError, KeyError, TypeError: it is not one.
    """
    document = json.loads(data)
    return Record(
        number=int(document["number"]),
        created=str(document["created"]),
        release=str(document["release"]),
        declaration_sha256=str(document["declaration_sha256"]),
        images=_decode_pins(document["images"]),
        mounted=_decode_pins(document.get("mounted", {})),  # former releases wrote none
        uids={str(name): int(uid) for name, uid in document["uids"].items()},
        ranges={str(name): int(index) for name, index in document["ranges"].items()},
        instances={str(name): str(letter) for name, letter in document.get("instances", {}).items()},  # as above
        replicas={str(name): int(count) for name, count in document.get("replicas", {}).items()},  # as above
        withheld=bool(document.get("withheld", False)),  # as above
    )


def load(path: Path) -> Stored:
    """Read a generation's folder.

    Raises:
        GenerationError: it is incomplete or damaged.
    """
    try:
        return Stored(record=decode((path / "generation.json").read_bytes()), path=path.resolve())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise GenerationError(f"generation {path.name} cannot be read", details=str(error)) from error


def current(layout: HostLayout) -> Stored | None:
    """Return the generation in force; none before the first."""
    return load(layout.current) if layout.current.is_symlink() else None


def numbers(layout: HostLayout) -> list[int]:
    """Return the numbers of all generations on the disk but those that were set aside, ascending."""
    return sorted(number for number, path in _folders(layout) if path.name.isdigit())


def taken(layout: HostLayout) -> list[int]:
    """Return the numbers that no other generation may get: those of all on the disk, ascending."""
    return sorted(number for number, _ in _folders(layout))


def uids(layout: HostLayout) -> dict[str, int]:
    """Return the numbers of users of all generations on the disk; where they differ, those of the latest.

    Also of those that were taken back or set aside: their users may have left files.
    """
    found: dict[str, int] = {}
    for _, path in sorted(_folders(layout)):
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # as far as this release can read it
            document = json.loads((path / "generation.json").read_bytes())
            found |= {str(name): int(uid) for name, uid in document["uids"].items()}
    return found


def _folders(layout: HostLayout) -> list[tuple[int, Path]]:
    """Return every generation on the disk with its number, those that were set aside included."""
    if not layout.generations.is_dir():
        return []
    found = [(path.name.removesuffix(ASIDE), path) for path in layout.generations.iterdir()]
    return [(int(number), path) for number, path in found if number.isdigit()]


def set_aside(layout: HostLayout, number: int) -> None:
    """Let a generation not be gone back to any more; its number and those of its users stay taken."""
    (layout.generations / str(number)).rename(layout.generations / f"{number}{ASIDE}")


def store(layout: HostLayout, content: Content) -> Stored:
    """Write a generation and rename it into place; it is not yet in force."""
    final = layout.generations / str(content.record.number)
    temporary = layout.generations / f"{content.record.number}.tmp"
    layout.generations.mkdir(parents=True, exist_ok=True)
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir(mode=0o755)
    write(temporary / "etc", content.etc)
    for name, bundle in content.bundles.items():
        files = {file: File(content=data, mode=shown.mode(file)) for file, data in bundle.items()}
        write(temporary / "bundles" / name, files)
    (temporary / "network.json").write_bytes(content.network)
    (temporary / "host.yaml").write_text(content.declaration)
    (temporary / "host.yaml").chmod(0o600)
    (temporary / "generation.json").write_bytes(encode(content.record))
    # For the initrd, which cannot read JSON: another release than this one has the generation rendered anew.
    (temporary / "release").write_text(f"{content.record.release}\n")
    if content.record.withheld:
        (temporary / "withheld").touch()  # for the condition of hostctl-withheld.service
    durable.sync_file_system(temporary)
    temporary.rename(final)
    durable.sync_directory(layout.generations)
    return load(final)


def put_in_force(layout: HostLayout, number: int) -> None:
    """Swap ``current`` to generation ``number`` by one rename."""
    durable.replace_symlink(layout.current, f"generations/{number}")


def prune(layout: HostLayout, *, keep: int = KEEP) -> list[int]:
    """Remove the oldest generations but ``keep`` and the one in force; return the removed numbers."""
    in_force = current(layout)
    candidates = [number for number in numbers(layout) if in_force is None or number != in_force.record.number]
    removed = candidates[:-keep] if keep else candidates
    for number in removed:
        doomed = layout.generations / f"{number}.tmp"
        (layout.generations / str(number)).rename(doomed)
        shutil.rmtree(doomed)
    return removed


def known(layout: HostLayout) -> frozenset[str]:
    """Return the names of the workloads of every generation on the disk, which can be gone back to.

    Raises:
        GenerationError: one cannot be read, so that nobody knows what it has.
    """
    return frozenset(name for each in numbers(layout) for name in load(layout.generations / str(each)).record.images)


def pinned(layout: HostLayout) -> frozenset[str]:
    """Return the manifest digests of every image that a generation on the disk needs.

    Raises:
        GenerationError: one cannot be read, so that nobody knows what it needs.
    """
    stored = [load(layout.generations / str(number)) for number in numbers(layout)]
    records = [each.record for each in stored]
    return frozenset(pin.digest for each in records for pin in (*each.images.values(), *each.mounted.values()))
