"""``manifest.json``: what a build made, for programs. Paths are relative to the manifest; nothing in it varies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from hostctl.compose.seal import Verity
from hostctl.errors import HostctlError

FORMAT = 1
ARCHITECTURE = "x86-64"  # as systemd names it (ConditionArchitecture=)
FILE_NAME = "manifest.json"
SIZE_LIMIT = 1 << 20


class ManifestError(HostctlError):
    """A folder holds no usable build."""

    id = "manifest"


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """One file of a build."""

    name: str
    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """A whole build."""

    format: int
    name: str
    version: str
    architecture: str
    channel: str
    tries: int
    source_date_epoch: int
    root_hash: str
    verity: Verity
    notes: tuple[str, ...]
    """What the build could not do as well as it should."""
    artifacts: tuple[Artifact, ...]

    def artifact(self, name: str) -> Artifact:
        """Return the artifact called ``name``.

        Raises:
            ManifestError: there is none.
        """
        for artifact in self.artifacts:
            if artifact.name == name:
                return artifact
        raise ManifestError(f"the build has no artifact {name!r}")


def to_json(manifest: Manifest) -> bytes:
    """Return the manifest as the file holds it."""
    return json.dumps(asdict(manifest), indent=2, sort_keys=True).encode() + b"\n"


def load_manifest(folder: Path) -> Manifest:
    """Return the manifest of the build in ``folder``.

    Raises:
        ManifestError: there is none, or it is not one of ours.
    """
    path = folder / FILE_NAME
    try:
        data = path.read_bytes()[: SIZE_LIMIT + 1]
    except OSError as error:
        raise ManifestError(
            f"{folder} holds no build: {error.strerror}", hint="`hostctl build RELEASE.yaml -o DIR` makes one"
        ) from error
    try:
        return _decode(json.loads(data))
    except (ValueError, KeyError, TypeError) as error:
        raise ManifestError(f"{path} is not a manifest of this version: {error}") from error


def _decode(document: Mapping[str, object]) -> Manifest:
    if document["format"] != FORMAT:
        raise ValueError(f"format {document['format']!r}")
    values = dict(document)
    verity = values.pop("verity")
    artifacts = values.pop("artifacts")
    notes = values.pop("notes", ())
    if not isinstance(verity, dict) or not isinstance(artifacts, Sequence) or not isinstance(notes, Sequence):
        raise TypeError("verity, notes and artifacts have another shape")
    decoded = tuple(Artifact(**artifact) for artifact in artifacts)
    for artifact in decoded:
        path = PurePosixPath(artifact.path)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"path {artifact.path!r} leads out of the build")
    values |= {"verity": Verity(**verity), "notes": tuple(map(str, notes)), "artifacts": decoded}
    return Manifest(**values)  # type: ignore[arg-type] # checked by use
