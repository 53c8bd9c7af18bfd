"""A built release as it is published: checked file by file against its manifest before anything is signed.

What hosts get is the full payload, so that is applied here as a host would, and must make the very root and boot image
that the manifest names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hostctl.durable import sha256_file
from hostctl.errors import HostctlError
from hostctl.payload.pack import INDEX_NAME, SEGMENTS_NAME, Files, library_compressor, pack_full
from hostctl.repository.release import Payload, Release, decode_release, encode_release
from hostctl.repository.unpack import unpack

MANIFEST = "manifest.json"
MAX_MANIFEST = 1 << 20
DEFAULT_TRIES = 3


class BuildError(HostctlError):
    """The folder does not hold a whole, unaltered build."""

    id = "build-invalid"


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """A file of a build that is what the manifest says."""

    path: Path
    payload: Payload


@dataclass(frozen=True, kw_only=True, slots=True)
class Build:
    """A checked build."""

    release: Release
    channel: str
    """The channel that it was built for."""
    payloads: Mapping[str, Path]
    """Source of each payload, by its SHA-256."""
    files: Files
    """Root and boot image, as a host would make them."""


def read_build(folder: Path, scratch: Path) -> Build:
    """Read a build's manifest, check what is published, and try its full payload.

    Args:
        folder: what ``hostctl build`` wrote.
        scratch: an empty folder for the root and the boot image; the build is usable as long as it is there.

    Raises:
        BuildError: the manifest is unreadable, or a file is missing or altered.
        DescriptionError: the manifest has values that no host would accept.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes()[:MAX_MANIFEST])
        listed = {artifact["name"]: artifact for artifact in manifest["artifacts"]}
        root, uki = listed["root"], listed["uki"]
        signature = _checked(folder, listed["verity-sig"])
        index, segments = _full_payload(folder, listed, scratch)
        release = Release(
            name=manifest["name"],
            version=manifest["version"],
            architecture=manifest["architecture"],
            root_hash=manifest["root_hash"],
            root_bytes=root["bytes"],
            salt=manifest["verity"]["salt"],
            uuid=manifest["verity"]["uuid"],
            tries=manifest.get("tries", DEFAULT_TRIES),
            uki_bytes=uki["bytes"],
            uki_sha256=uki["sha256"],
            index=index.payload,
            segments=segments.payload,
            signature=signature.payload,
        )
        channel, root_sha256 = str(manifest["channel"]), str(root["sha256"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BuildError(
            f"{folder} does not hold a build",
            details=f"{type(error).__name__}: {error}"[:500],
            hint="`hostctl build` makes one",
        ) from error
    # What hosts would refuse must not be signed.
    checked = decode_release(encode_release(release))
    files = unpack(index.path, segments.path, checked, scratch)
    for made, wanted in ((files.root, root_sha256), (files.uki, checked.uki_sha256)):
        if sha256_file(made) != wanted:
            raise BuildError(
                f"the payload of {folder} makes another {made.name} than was built", hint="build the release again"
            )
    payloads = {one.payload.sha256: one.path for one in (index, segments, signature)}
    return Build(release=checked, channel=channel, payloads=payloads, files=files)


def _full_payload(folder: Path, listed: Mapping[str, Mapping[str, object]], scratch: Path) -> tuple[Artifact, Artifact]:
    """Return the payload that came with the build; one that came without gets it here."""
    if INDEX_NAME in listed and SEGMENTS_NAME in listed:
        return _checked(folder, listed[INDEX_NAME]), _checked(folder, listed[SEGMENTS_NAME])
    files = Files(root=_checked(folder, listed["root"]).path, uki=_checked(folder, listed["uki"]).path)
    packed = pack_full(files, scratch, library_compressor())
    return described(packed.index), described(packed.segments)


def described(path: Path) -> Artifact:
    """Return a file with its size and hash."""
    return Artifact(path=path, payload=Payload(bytes=path.stat().st_size, sha256=sha256_file(path)))


def _checked(folder: Path, artifact: Mapping[str, object]) -> Artifact:
    path = PurePosixPath(str(artifact["path"]))
    if path.is_absolute() or ".." in path.parts:
        raise BuildError(f"the manifest names a file outside of the build: {path}")
    found = described(folder / path)
    if (found.payload.bytes, found.payload.sha256) != (artifact["bytes"], artifact["sha256"]):
        raise BuildError(f"{folder / path} is not what the manifest says", hint="build the release again")
    return found
