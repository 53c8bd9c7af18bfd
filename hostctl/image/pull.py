"""Pulls an image by digest with skopeo: a tag is resolved once, and what is copied afterwards is named by digest.

skopeo speaks to the registry and checks signatures; every byte that it brings is verified again here before it is
stored. A layer is imported while others are still on their way. What a cut left is used again when it is whole.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from hostctl.config.values import ImageReference
from hostctl.durable import sha256_file
from hostctl.image.layers import MakeErofs, make_erofs
from hostctl.image.oci import (
    MANIFEST_TYPES,
    Descriptor,
    ImageFormatError,
    digest_of,
    is_index,
    manifest_type,
    parse_config,
    parse_index,
    parse_manifest,
    verified,
)
from hostctl.image.refusal import PullError, UnsignedError, ask_limits, refusal
from hostctl.image.registry import DIRECT, SKOPEO, Access, Mirror, Session, Skopeo, session, source
from hostctl.image.retention import PARTIAL
from hostctl.image.room import check_margin
from hostctl.image.store import ImageStore, StoredImage, pairs
from hostctl.run import CommandError

__all__ = ["PullError", "UnsignedError", "pull", "resolve"]

INSPECT_SECONDS = 60.0
COPY_SECONDS = 3600.0
STALL_SECONDS = 90.0
STALL_BYTES = 64 << 10  # a registry that gives less in that time is given up
POLL_SECONDS = 0.2  # skopeo says nothing while it works: what it has written so far is looked at
TOLD_SECONDS = 1.0
IMPORTS = 2  # layers at a time; each is a program that unpacks and one that writes
BEYOND_BYTES = 1 << 20  # so much more than the manifest says may come: skopeo may write the configuration otherwise
MIB = 1 << 20

Notify = Callable[[str], None]
Result = TypeVar("Result")


def _silent(text: str) -> None:
    del text


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """One of the places that may have an image, and skopeo as it is run for that."""

    opened: Session
    reference: ImageReference
    access: Access
    location: str

    def inspect(self, digest: str | None, *words: str) -> bytes:
        """Return a document of the image."""
        try:
            wanted = source(self.reference, digest)
            return self.opened.run("inspect", "--raw", *words, wanted, timeout=INSPECT_SECONDS).stdout
        except CommandError as error:
            raise self.failed("looking up", error) from error

    def failed(self, what: str, error: CommandError) -> PullError:
        """Return the error for what skopeo could not do."""
        itself = self.location == self.reference.registry
        limits = ask_limits(self.reference, self.access, error) if itself else ""
        return refusal(f"{what} {self.reference}", self.location, error, limits)


def _of_each(
    reference: ImageReference,
    access: Access,
    skopeo: Skopeo,
    notify: Notify,
    ask: Callable[[_Place], Result],
) -> Result:
    """Ask the mirrors of a registry in their order, and the registry itself when they fail, in whatever way."""

    def at(place: Mirror) -> Result:
        with session(reference.registry, access, skopeo, place) as opened:
            return ask(_Place(opened=opened, reference=reference, access=access, location=place.location))

    *mirrors, itself = access.places(reference.registry)
    for mirror in mirrors:
        try:
            return at(mirror)
        except (PullError, ImageFormatError) as error:
            notify(f"mirror {mirror.location}: {error.brief}")
    return at(itself)


def resolve(reference: ImageReference, *, access: Access = DIRECT, skopeo: Skopeo = SKOPEO) -> str:
    """Return the digest of the linux/amd64 manifest that a reference names now.

    Args:
        reference: with a digest, that one is asked for and verified; else its tag.
        access: how the registry is reached.
        skopeo: the program.

    Raises:
        PullError: the registry cannot be reached or has no such image.
        ImageFormatError: what it gave is malformed, for another platform, or not what the digest says.
    """
    return _of_each(reference, access, skopeo, _silent, _resolved)


def _resolved(place: _Place) -> str:
    wanted = place.reference.digest
    data = place.inspect(wanted)
    if wanted:
        verified(data, wanted)
    if not is_index(data):
        parse_manifest(data)
        return digest_of(data)
    digest = parse_index(data).digest
    parse_manifest(verified(place.inspect(digest), digest))
    return digest


@dataclass(frozen=True, kw_only=True, slots=True)
class _Incoming:
    """The folder in which an image arrives, an OCI layout, and what it should hold: layers by their diffID."""

    folder: Path
    layers: Mapping[str, Descriptor]
    known: frozenset[str]
    """diffIDs of layers that the store has already."""
    config: int
    """Bytes of the configuration, which comes as well."""

    @property
    def total(self) -> int:
        """Return how many bytes of layers are wanted."""
        return sum(layer.size for diff_id, layer in self.layers.items() if diff_id not in self.known)

    def _blob(self, layer: Descriptor) -> Path:
        return self.folder / "blobs/sha256" / layer.digest.removeprefix("sha256:")

    def prepare(self) -> None:
        """Keep only what is whole, and stand in for what the store has, so that skopeo does not fetch it again.

        A stand-in is a file of the right size without content; it is never read, and does not outlive this pull.
        """
        (self.folder / "blobs/sha256").mkdir(parents=True, exist_ok=True)
        self.drop_partial()
        for blob in (self.folder / "blobs/sha256").iterdir():
            if sha256_file(blob) != blob.name:
                blob.unlink()
        for diff_id in self.known:
            _stand_in(self._blob(self.layers[diff_id]), self.layers[diff_id])

    def drop_partial(self) -> None:
        """Remove what skopeo left of blobs that it did not bring to their end."""
        for partial in self.folder.glob(PARTIAL):
            partial.unlink(missing_ok=True)

    def arrived(self, started: Mapping[str, object]) -> list[tuple[str, Path]]:
        """Return the layers that are whole on the disk and not in ``started``."""
        wanted = ((diff_id, self._blob(layer)) for diff_id, layer in self.layers.items() if diff_id not in self.known)
        return [(diff_id, path) for diff_id, path in wanted if diff_id not in started and path.is_file()]

    def bytes(self) -> int:
        """Return how much of the wanted layers is on the disk."""
        wanted = {self._blob(layer) for diff_id, layer in self.layers.items() if diff_id not in self.known}
        return sum(_size(path) for path in (*wanted, *self.folder.glob(PARTIAL)))


def _stand_in(blob: Path, layer: Descriptor) -> None:
    with blob.open("wb") as file:
        file.truncate(layer.size)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@dataclass(slots=True)
class _Meter:
    """Tells how far a pull is, not too often."""

    name: str
    total: int
    notify: Notify
    started: float = field(default_factory=time.monotonic)
    told: float = 0.0
    first: int | None = None

    def tell(self, received: int, layers: int, done: int) -> None:
        """Report bytes, rate and layers if the last report is old enough."""
        now = time.monotonic()
        self.first = received if self.first is None else self.first
        if now - self.told < TOLD_SECONDS:
            return
        self.told = now
        rate = (received - self.first) / max(now - self.started, POLL_SECONDS)
        self.notify(
            f"pulling {self.name}: {received / MIB:.1f} of {self.total / MIB:.1f} MiB, {rate / MIB:.1f} MiB/s, "
            f"{done} of {layers} layers imported"
        )


def pull(
    reference: ImageReference,
    digest: str,
    store: ImageStore,
    *,
    access: Access = DIRECT,
    make: MakeErofs = make_erofs,
    skopeo: Skopeo = SKOPEO,
    notify: Notify = _silent,
) -> StoredImage:
    """Bring an image into the store; one that is there and known to be signed as wanted is only named.

    Args:
        reference: where it lies, and the name to remember it under.
        digest: of its manifest, as :func:`resolve` returned it.
        store: one with a writable folder; the caller holds the lock.
        access: how the registry is reached, and by which key the image must be signed.
        make: see :func:`hostctl.image.layers.convert`.
        skopeo: the program.
        notify: told how far it is.

    Raises:
        PullError: the registry could not give it, or it is not signed.
        ImageFormatError, LayerError: it is not sound.
        ImageStoreError: it has no room, or the disk was about to be full meanwhile.
    """
    found, signer = store.get(digest), access.signer(reference)
    if found is not None and store.is_signed(digest, signer):
        return store.name(found, str(reference))

    def fetch(place: _Place) -> Path:
        return _fetch(place, digest, store, make, notify)

    folder = _of_each(reference, access, skopeo, notify, fetch)
    stored = store.add(folder, digest, str(reference), make=make, signed=signer)
    shutil.rmtree(folder)
    return stored


def _fetch(place: _Place, digest: str, store: ImageStore, make: MakeErofs, notify: Notify) -> Path:
    """Bring the blobs of an image from one place and import its layers; return the folder of the rest."""
    manifest_bytes = verified(place.inspect(digest), digest)
    manifest = parse_manifest(manifest_bytes)
    config_bytes = verified(place.inspect(digest, "--config"), manifest.config.digest)
    layers = pairs(manifest, parse_config(config_bytes))
    known = {diff_id: path for diff_id in layers if (path := store.own_layer(diff_id))}
    incoming = _Incoming(folder=store.incoming(digest), layers=layers, known=frozenset(known), config=len(config_bytes))
    incoming.prepare()
    # What was counted as there, and what is there of the rest, must neither go nor be counted once more.
    store.make_room(max(0, incoming.total - incoming.bytes()), needed=known.values())
    words = ["--quiet", "--dest-oci-accept-uncompressed-layers", "--remove-signatures"]  # checked, not kept
    if manifest_type(manifest_bytes) == MANIFEST_TYPES[0]:
        words.append("--preserve-digests")  # Docker's own manifests fit into no OCI layout; their layers do
    copy = [*words, source(place.reference, digest), f"oci:{incoming.folder}:pulled"]
    try:
        meter = _Meter(str(place.reference), incoming.total, notify)
        _copy(place.opened, copy, _Import(incoming, store, meter, make))
    except CommandError as error:
        raise place.failed("pulling", error) from error
    finally:
        incoming.drop_partial()
    for document in (manifest_bytes, config_bytes):
        (incoming.folder / "blobs/sha256" / digest_of(document).removeprefix("sha256:")).write_bytes(document)
    return incoming.folder


class _Import:
    """Imports layers while skopeo brings them."""

    def __init__(self, incoming: _Incoming, store: ImageStore, meter: _Meter, make: MakeErofs) -> None:
        self._incoming = incoming
        self._store = store
        self._meter = meter
        self._make = make
        self._started: dict[str, Future[None]] = {}
        self._workers = ThreadPoolExecutor(IMPORTS)
        self._received = 0
        self._moved = time.monotonic()

    def tick(self) -> None:
        """Begin with what has arrived; raise what came of layers before, and when nothing arrives any more."""
        for diff_id, blob in self._incoming.arrived(self._started):
            layer = self._incoming.layers[diff_id]
            self._started[diff_id] = self._workers.submit(self._take, blob, layer, diff_id)
        done = [each for each in self._started.values() if each.done()]
        for each in done:
            each.result()
        received = self._incoming.bytes()
        self._check(received)
        now = time.monotonic()
        if received - self._received >= STALL_BYTES or received < self._received or len(done) < len(self._started):
            self._received, self._moved = received, now
        elif now - self._moved > STALL_SECONDS:
            details = f"less than {STALL_BYTES} bytes came within {STALL_SECONDS:g} s"
            raise PullError(f"{self._meter.name} cannot be pulled", details=details)
        self._meter.tell(received, len(self._incoming.layers), len(done) + len(self._incoming.known))

    def _check(self, received: int) -> None:
        """Look that no more comes than should, and that the disk takes it.

        skopeo compares a blob with its digest when it ends, which one that is made to harm never does.
        """
        wanted = self._incoming.total
        if received > wanted + self._incoming.config + BEYOND_BYTES:
            details = f"the registry sent {received} bytes of layers that have {wanted} by its manifest"
            hint = "nothing of the layer was kept; tell whoever runs the registry, or pull the image from another one"
            raise PullError(f"{self._meter.name} cannot be pulled", details=details, hint=hint)
        if received:
            check_margin("image", self._incoming.folder)

    def _take(self, blob: Path, layer: Descriptor, diff_id: str) -> None:
        self._store.take_layer(blob, layer, diff_id, make=self._make)
        _stand_in(blob, layer)  # the disk has to hold a layer once only

    def finish(self) -> None:
        """Import what has arrived since, and wait."""
        self.tick()
        while pending := [each for each in self._started.values() if not each.done()]:
            wait(pending, timeout=TOLD_SECONDS, return_when=FIRST_COMPLETED)
            self.tick()

    def stop(self) -> None:
        """Wait for what is being imported and begin nothing more."""
        self._workers.shutdown(wait=True, cancel_futures=True)


def _copy(opened: Session, words: list[str], importing: _Import) -> None:
    """Let skopeo copy, and import each layer as soon as it is whole."""
    try:
        opened.watch("copy", *words, tick=importing.tick, every=POLL_SECONDS, timeout=COPY_SECONDS)
        importing.finish()
    finally:
        importing.stop()
