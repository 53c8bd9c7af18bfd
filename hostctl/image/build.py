"""``image.yaml`` to an OCI archive: one layer of pinned Debian packages and files, made without privileges.

Builder only. The same declaration, lock and files give the same bytes.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import zstandard

from hostctl.compose.cache import Cache
from hostctl.compose.lock import LockError, cache_folder
from hostctl.compose.packages import DEFAULT_MIRROR, Apt, Package, fetch_packages, known_packages, select
from hostctl.compose.sources import tree_id
from hostctl.config.decode import decode
from hostctl.config.load import read_text
from hostctl.config.values import ImageReference, PackageName, RelativePath
from hostctl.durable import sha256_file, write_file
from hostctl.image import rootfs
from hostctl.image.oci import digest_of

LOCK_NAME = "image.lock"
LOCK_FORMAT = 1
SUITE = "trixie"
LEVEL = 12
_PORT = re.compile(r"[1-9][0-9]{0,4}/(tcp|udp)")
_USER = re.compile(r"[0-9]{1,5}(:[0-9]{1,5})?")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageDeclaration:
    """An application image."""

    version: Literal[1]
    """Version of this format."""
    name: ImageReference
    """Reference with a tag."""
    packages: tuple[PackageName, ...]
    """Debian packages; what they depend on comes with them."""
    files: RelativePath | None = None
    """Folder that is laid over the root, relative to this file."""
    entrypoint: tuple[str, ...] = ()
    """Program and first arguments."""
    cmd: tuple[str, ...] = ()
    """Further arguments, which a workload can replace."""
    env: tuple[str, ...] = ()
    """Environment, NAME=value each."""
    user: str = "0:0"
    """Numeric user, or user:group."""
    working_dir: str = "/"
    """Absolute folder."""
    expose: tuple[str, ...] = ()
    """Ports, as 80/tcp."""

    def __post_init__(self) -> None:
        """Refuse what no host would run."""
        problems = [f"env[{at}]: must be NAME=value" for at, word in enumerate(self.env) if word.find("=") < 1]
        problems += [f"expose[{at}]: must be as 80/tcp" for at, x in enumerate(self.expose) if not _PORT.fullmatch(x)]
        if not _USER.fullmatch(self.user):
            problems.append("user: must be a number, or two as 1000:1000")
        if not self.working_dir.startswith("/") or ".." in self.working_dir.split("/"):
            problems.append("working_dir: must be an absolute folder")
        if not self.packages:
            problems.append("packages: at least one is needed")
        if problems:
            raise ValueError(*problems)


def load_image(path: Path) -> ImageDeclaration:
    """Read image.yaml; raises DeclarationError with every problem's position."""
    return decode(read_text(path), ImageDeclaration, str(path))


def make_lock(image: ImageDeclaration) -> tuple[Package, ...]:
    """Resolve the packages against the archive as it is now; errors as :func:`hostctl.compose.lock.make_lock`."""
    with tempfile.TemporaryDirectory(prefix="hostctl-apt-") as folder:
        apt = Apt(Path(folder), DEFAULT_MIRROR, SUITE)
        apt.update()
        known = known_packages((uri, path.read_text()) for uri, path in apt.indexes())
        return select(apt.resolve(tuple(map(str, image.packages))), known)


def format_lock(image: ImageDeclaration, packages: tuple[Package, ...]) -> bytes:
    """Return the text of ``image.lock``: sorted JSON."""
    requested = sorted(map(str, image.packages))
    tree = {"format": LOCK_FORMAT, "requested": requested, "packages": [asdict(package) for package in packages]}
    return json.dumps(tree, indent=1, sort_keys=True).encode() + b"\n"


def load_lock(path: Path, image: ImageDeclaration) -> tuple[Package, ...]:
    """Read ``image.lock``.

    Raises:
        LockError: it is no lock, or one of other packages.
    """
    try:
        tree = json.loads(path.read_bytes())
        packages = tuple(Package(**entry) for entry in tree["packages"])
        form, requested = tree["format"], tree["requested"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise LockError(f"{path} is not a lock: {error}", hint="`hostctl image lock` makes it anew") from error
    if form != LOCK_FORMAT or requested != sorted(map(str, image.packages)):
        raise LockError(f"{path} does not fit the declaration", hint="run `hostctl image lock` again")
    return packages


def write_archive(image: ImageDeclaration, layer: Path, output: Path) -> str:
    """Write the OCI archive of one layer and return the manifest's digest.

    Formats: https://github.com/opencontainers/image-spec v1.1, image-layout.md, manifest.md, config.md.

    Args:
        image: what the configuration says.
        layer: the layer's uncompressed tar.
        output: the archive.
    """
    blob = zstandard.ZstdCompressor(level=LEVEL).compress(layer.read_bytes())
    settings = {
        "Entrypoint": list(image.entrypoint),
        "Cmd": list(image.cmd),
        "Env": list(image.env),
        "User": image.user,
        "WorkingDir": image.working_dir,
        "ExposedPorts": {port: {} for port in image.expose},
    }
    rootfs_field = {"type": "layers", "diff_ids": [f"sha256:{sha256_file(layer)}"]}
    config = _json({"architecture": "amd64", "os": "linux", "config": settings, "rootfs": rootfs_field})
    kind = "application/vnd.oci.image"
    layers = [_descriptor(f"{kind}.layer.v1.tar+zstd", blob)]
    manifest_type = f"{kind}.manifest.v1+json"
    configuration = _descriptor(f"{kind}.config.v1+json", config)
    manifest = _json({"schemaVersion": 2, "mediaType": manifest_type, "config": configuration, "layers": layers})
    name = {"org.opencontainers.image.ref.name": str(image.name)}
    entry = {**_descriptor(manifest_type, manifest), "annotations": name}
    index = _json({"schemaVersion": 2, "mediaType": f"{kind}.index.v1+json", "manifests": [entry]})
    files = {"oci-layout": _json({"imageLayoutVersion": "1.0.0"}), "index.json": index}
    for data in (blob, config, manifest):
        files[f"blobs/sha256/{digest_of(data).removeprefix('sha256:')}"] = data
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, data in sorted(files.items()):
            info = tarfile.TarInfo(path)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    write_file(output, packed.getvalue())
    return digest_of(manifest)


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _descriptor(media_type: str, data: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def build_image(declaration: Path, output: Path) -> str:
    """Build an image from its declaration and return its manifest's digest; the lock is made if there is none.

    Args:
        declaration: path of image.yaml.
        output: the OCI archive to write.

    Raises:
        HostctlError: the declaration, the lock, a package or the files are not in order.
    """
    image = load_image(declaration)
    lock = declaration.with_name(LOCK_NAME)
    if not lock.exists():
        write_file(lock, format_lock(image, make_lock(image)))
    packages = load_lock(lock, image)
    cache = Cache(cache_folder())
    debs = fetch_packages(packages, cache.root)
    folder = None if image.files is None else declaration.parent / str(image.files)
    inputs = [package.sha256 for package in packages] + ["" if folder is None else tree_id(folder)]
    paths = [debs[package] for package in packages]
    made = cache.stage("image", [rootfs], inputs, lambda out: rootfs.write_layer(paths, folder, out / "layer.tar"))
    return write_archive(image, made / "layer.tar", output)
