"""Pulls an image by digest with skopeo: a tag is resolved once, and what is copied afterwards is named by digest.

skopeo speaks to the registry; every byte it brings is verified again here before it is stored.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from hostctl.config.values import ImageReference
from hostctl.errors import EXIT_UNAVAILABLE, HostctlError
from hostctl.image.layers import MakeErofs, make_erofs
from hostctl.image.oci import digest_of, is_index, parse_index, parse_manifest, verified
from hostctl.image.store import ImageStore, StoredImage
from hostctl.run import CommandError, run

INSPECT_SECONDS = 60
COPY_SECONDS = 3600


class PullError(HostctlError):
    """The registry could not give the image."""

    id = "image-pull"
    exit_code = EXIT_UNAVAILABLE


def _source(reference: ImageReference, digest: str | None) -> str:
    where = f"docker://{reference.registry}/{reference.repository}"
    return f"{where}@{digest}" if digest else f"{where}:{reference.tag}"


def _raw(reference: ImageReference, digest: str | None, *, insecure: bool) -> bytes:
    argv = ["skopeo", "inspect", "--raw", f"--tls-verify={str(not insecure).lower()}", _source(reference, digest)]
    try:
        return run(argv, timeout=INSPECT_SECONDS).stdout
    except CommandError as error:
        raise PullError(f"{reference} cannot be looked up", details=error.details or error.brief) from error


def resolve(reference: ImageReference, *, insecure: bool = False) -> str:
    """Return the digest of the linux/amd64 manifest that a reference names now.

    Args:
        reference: with a digest, that one is asked for and verified; else its tag.
        insecure: speak plain HTTP, or HTTPS without a trusted certificate.

    Raises:
        PullError: the registry cannot be reached or has no such image.
        ImageFormatError: what it gave is malformed, for another platform, or not what the digest says.
    """
    data = _raw(reference, reference.digest, insecure=insecure)
    if reference.digest:
        verified(data, reference.digest)
    if not is_index(data):
        parse_manifest(data)
        return digest_of(data)
    digest = parse_index(data).digest
    parse_manifest(verified(_raw(reference, digest, insecure=insecure), digest))
    return digest


def pull(
    reference: ImageReference, digest: str, store: ImageStore, *, insecure: bool = False, make: MakeErofs = make_erofs
) -> StoredImage:
    """Bring an image into the store.

    Args:
        reference: where it lies, and the name to remember it under.
        digest: of its manifest, as :func:`resolve` returned it.
        store: one with a writable folder.
        insecure: see :func:`resolve`.
        make: see :func:`hostctl.image.layers.convert`.

    Raises:
        PullError: the registry could not give it.
        ImageFormatError, LayerError: it is not sound.
    """
    found = store.get(digest)
    if found is not None and store.names().get(str(reference)) == digest:
        return found
    with tempfile.TemporaryDirectory(dir=store.clean()) as folder:
        layout = Path(folder, "layout")
        argv = ["skopeo", "--insecure-policy", "copy", "--quiet", "--preserve-digests"]
        argv += [f"--src-tls-verify={str(not insecure).lower()}", _source(reference, digest), f"oci:{layout}:pulled"]
        try:
            run(argv, timeout=COPY_SECONDS, env={"TMPDIR": folder})
        except CommandError as error:
            raise PullError(f"{reference} cannot be pulled", details=error.details or error.brief) from error
        return store.add(layout, digest, str(reference), make=make)
