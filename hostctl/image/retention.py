"""What leaves the writable folder of an image store, and in which order.

The folder is read as it lies on the disk, so a removal that was cut off anywhere is completed by the next one: a name
without its manifest, and files that no manifest leads to, are nothing that anybody can see.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Collection
from pathlib import Path

from hostctl.durable import sync_directory, write_file
from hostctl.errors import HostctlError
from hostctl.image.oci import parse_config, parse_manifest, verified

INCOMING_SECONDS = 24 * 3600.0  # what a pull brought before it was cut off is kept so long
PARTIAL = "oci-put-blob*"
"""How skopeo names a blob that it writes (containers/image, oci/layout/oci_dest.go); it never goes on with one."""
SUFFIXES = (".erofs", ".check", ".recipe")
"""Of a layer's files."""
KINDS = ("manifests", "configs", "layers")


def used(root: Path) -> int:
    """Return the bytes on the disk that layers and pulls under way take."""
    files = [*(root / "layers").glob("*"), *(root / "incoming").rglob("*")]
    return sum(path.lstat().st_blocks * 512 for path in files)


def _digest(path: Path) -> str:
    return path.stem.replace("-", ":")


def _parts(root: Path, manifest: Path) -> set[Path]:
    """Return the files that a manifest leads to; a damaged one leads to itself alone and so gives up the rest."""
    parts = {manifest}
    try:
        wanted = parse_manifest(verified(manifest.read_bytes(), _digest(manifest))).config.digest
        config = root / "configs" / f"{wanted.replace(':', '-')}.json"
        parts.add(config)
        for diff_id in parse_config(config.read_bytes()).diff_ids:
            name = diff_id.replace(":", "-")
            parts |= {root / "layers" / f"{name}{suffix}" for suffix in SUFFIXES}
    except (HostctlError, FileNotFoundError):
        return parts
    return parts


def _remove(paths: Collection[Path]) -> None:
    for path in sorted(paths):
        path.unlink(missing_ok=True)


def unfinished(root: Path) -> list[Path]:
    """Return what a writer that was cut off left, and what one that is under way has not finished."""
    hidden = [path for kind in (".", *KINDS) for path in (root / kind).glob(".*.tmp")]
    return [*(root / "tmp").glob("*"), *hidden, *(root / "incoming").glob(f"*/{PARTIAL}")]


def discard(paths: Collection[Path]) -> None:
    """Remove files, and folders with all that is in them."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _rewrite(root: Path, file: str, digest: str) -> None:
    """Take an image out of the table of names, or out of that of signed images."""
    try:
        table = json.loads((root / file).read_bytes())
    except FileNotFoundError:
        return
    kept = {key: value for key, value in table.items() if digest not in (key, value)}
    if kept != table:
        write_file(root / file, json.dumps(kept, indent=1, sort_keys=True).encode())


def drop(root: Path, digest: str) -> None:
    """Make an image invisible: its names go first, then its manifest."""
    _rewrite(root, "names.json", digest)
    (root / "manifests" / f"{digest.replace(':', '-')}.json").unlink(missing_ok=True)
    sync_directory(root / "manifests")
    _rewrite(root, "signed.json", digest)


def sweep(root: Path, needed: Collection[Path]) -> tuple[Path, ...]:
    """Remove configurations and layers that no manifest leads to and that are not ``needed``."""
    wanted = set(needed)
    for manifest in (root / "manifests").glob("sha256-*.json"):
        wanted |= _parts(root, manifest)
    removed: list[Path] = []
    for kind in ("configs", "layers"):
        found = [path for path in sorted((root / kind).glob("sha256-*")) if path not in wanted]
        _remove(found)
        removed += found
        sync_directory(root / kind)
    return tuple(removed)


def _forget_old_pulls(root: Path) -> None:
    now = time.time()
    for folder in (root / "incoming").iterdir():
        if now - folder.stat().st_mtime > INCOMING_SECONDS:
            shutil.rmtree(folder)


def shrink(root: Path, keep: Collection[str], limit: int, needed: Collection[Path] = ()) -> tuple[Path, ...]:
    """Remove what no manifest leads to, then whole images, the longest unused first, until ``limit`` bytes are used.

    Args:
        root: the writable folder of a store.
        keep: manifest digests of images that stay whatever comes; they count as used now.
        limit: bytes.
        needed: layers that stay although no manifest leads to them yet.

    Returns:
        The files that were removed.
    """
    for kind in (*KINDS, "incoming"):
        (root / kind).mkdir(parents=True, exist_ok=True)
    _forget_old_pulls(root)
    extra = {path.with_suffix(suffix) for path in needed for suffix in SUFFIXES}
    removed = [*sweep(root, extra)]
    manifests = list((root / "manifests").glob("sha256-*.json"))
    for path in manifests:
        if _digest(path) in keep:
            os.utime(path)
    rest = sorted((path for path in manifests if _digest(path) not in keep), key=lambda path: path.stat().st_mtime_ns)
    for manifest in rest:
        if used(root) <= limit and limit:
            break
        drop(root, _digest(manifest))
        removed += [manifest, *sweep(root, extra)]
    return tuple(removed)
