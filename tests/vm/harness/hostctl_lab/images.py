"""Small images for tests, made by hand as OCI layouts."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import zstandard

OCI = "application/vnd.oci.image"
DOCKER = "application/vnd.docker"
GZIP = f"{OCI}.layer.v1.tar+gzip"
Pack = Callable[[bytes], bytes]


def pack_gzip(data: bytes) -> bytes:
    """Return data as gzip, the same at any time."""
    return gzip.compress(data, mtime=0)


def pack_zstd(data: bytes) -> bytes:
    """Return data as a zstd frame."""
    return zstandard.ZstdCompressor().compress(data)


def plain(data: bytes) -> bytes:
    """Return data as it is."""
    return data


COMPRESSIONS: Mapping[str, tuple[str, Pack]] = {
    "none": (f"{OCI}.layer.v1.tar", plain),
    "gzip": (GZIP, pack_gzip),
    "zstd": (f"{OCI}.layer.v1.tar+zstd", pack_zstd),
}


def layer(text: bytes, name: str = "etc/motd") -> bytes:
    """Return the tar of a layer with one file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text))
    return out.getvalue()


def digest_of(data: bytes) -> str:
    """Return a digest as OCI writes it."""
    return f"sha256:{sha256(data).hexdigest()}"


def layout(
    folder: Path,
    *texts: bytes,
    diff_id: str = "",
    compression: str = "gzip",
    docker: bool = False,
    platforms: Sequence[Mapping[str, str]] = (),
    tars: Sequence[bytes] = (),
) -> str:
    """Write an OCI layout with one image of a layer for each text; return the manifest's digest.

    Args:
        folder: the layout.
        texts: what /etc/motd holds, a layer each.
        diff_id: what the configuration says of every layer instead of the truth.
        compression: a key of :data:`COMPRESSIONS`.
        docker: manifest and configuration have Docker's media types.
        platforms: of an index that names the image for each; index.json then names that one.
        tars: whole layers, after those of ``texts``.
    """
    (folder / "blobs/sha256").mkdir(parents=True)

    def put(kind: str, data: bytes) -> dict[str, object]:
        (folder / "blobs/sha256" / sha256(data).hexdigest()).write_bytes(data)
        return {"mediaType": kind, "digest": digest_of(data), "size": len(data)}

    made = [layer(text) for text in texts] + list(tars)
    config: dict[str, object] = {
        "os": "linux",
        "architecture": "amd64",
        "config": {"Entrypoint": ["/bin/x"], "User": "7"},
    }
    config |= {"created": "2026-01-02T03:04:05Z", "history": [{"created_by": "COPY x"} for _ in made]}
    config |= {"rootfs": {"type": "layers", "diff_ids": [diff_id or digest_of(tar) for tar in made]}}
    kind, pack = COMPRESSIONS[compression]
    kinds = (f"{OCI}.config.v1+json", kind, f"{OCI}.manifest.v1+json")
    if docker:
        kinds = (
            f"{DOCKER}.container.image.v1+json",
            f"{DOCKER}.image.rootfs.diff.tar.gzip",
            f"{DOCKER}.distribution.manifest.v2+json",
        )
    parts = [put(kinds[0], json.dumps(config).encode()), *(put(kinds[1], pack(tar)) for tar in made)]
    manifest = {"schemaVersion": 2, "mediaType": kinds[2], "config": parts[0], "layers": parts[1:]}
    entry = put(kinds[2], json.dumps(manifest).encode())
    digest = str(entry["digest"])
    if platforms:
        index = {"schemaVersion": 2, "manifests": [{**entry, "platform": dict(each)} for each in platforms]}
        entry = put(f"{OCI}.index.v1+json", json.dumps(index | {"mediaType": f"{OCI}.index.v1+json"}).encode())
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return digest


def changed(archive: Path, folder: Path, files: Mapping[str, bytes], entrypoint: Sequence[str] = ()) -> str:
    """Write an OCI layout with the image of an archive and one layer more; return the manifest's digest.

    Args:
        archive: an OCI archive of one image.
        folder: the layout, which is made.
        files: what the layer holds, by path.
        entrypoint: instead of the image's.
    """
    with tarfile.open(archive) as tar:
        for member in tar:
            file = tar.extractfile(member)
            if file is not None:
                place = folder / member.name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(file.read())

    def read(entry: Mapping[str, str]) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((folder / "blobs" / entry["digest"].replace(":", "/")).read_bytes())
        return found

    def put(kind: str, data: bytes) -> dict[str, object]:
        (folder / "blobs/sha256" / sha256(data).hexdigest()).write_bytes(data)
        return {"mediaType": kind, "digest": digest_of(data), "size": len(data)}

    index = json.loads((folder / "index.json").read_bytes())
    manifest = read(index["manifests"][0])
    config = read(manifest["config"])
    tar_bytes = files_layer(files)
    config["rootfs"]["diff_ids"].append(digest_of(tar_bytes))
    if config.get("history"):
        config["history"].append({"created_by": "COPY"})
    if entrypoint:
        config["config"]["Entrypoint"] = list(entrypoint)
    manifest["config"] = put(manifest["config"]["mediaType"], json.dumps(config).encode())
    manifest["layers"].append(put(GZIP, pack_gzip(tar_bytes)))
    entry = put(index["manifests"][0]["mediaType"], json.dumps(manifest).encode())
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return str(entry["digest"])


def files_layer(files: Mapping[str, bytes]) -> bytes:
    """Return the tar of a layer with files and the folders that they are in."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for parent in sorted({str(parent) for name in files for parent in Path(name).parents} - {"."}):
            info = tarfile.TarInfo(parent)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()
