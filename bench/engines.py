"""The host of `bench/containers`: Docker and Podman beside our workloads, and the two images that all of them get.

Neither engine is part of a host of ours. The release `bench/engines` adds them; what our images leave out of what they
need is laid over the root from the same locked packages, as `bench/podman_host.py` does. Docker's daemon is started by
hand, with its settings on the command line: nothing of Docker's own is enabled, and /etc is read-only.

All three import the very same archives, of the kind that `docker save` writes: an image as one plain tar.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import tempfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import zstandard
from hostctl_qemu.ssh import Ssh

from bench import hosts

RELEASE = hosts.ROOT / "bench/engines"
LAID_OVER = ("libglib2.0-0t64", "libatomic1", "netavark", "iptables", "libip4tc2", "libip6tc2")
LINKS = {"usr/sbin/iptables": "xtables-nft-multi", "usr/sbin/ip6tables": "xtables-nft-multi"}
"""What update-alternatives would have made."""
SITE, LAYER = "localhost/site:1", "localhost/layer:1"
CHUNK = 1 << 20


def docker_archive(layout: Path, output: Path) -> int:
    """Write a one-layer OCI archive as the archive that `docker save` makes, and return the layer's plain bytes.

    Args:
        layout: a tar of an OCI layout with one image, its layer compressed by zstd.
        output: the archive to write.
    """
    with tarfile.open(layout) as archive, tempfile.TemporaryFile(dir=output.parent) as plain:
        (entry,) = json.loads(_blob(archive, "index.json"))["manifests"]
        manifest = json.loads(_blob(archive, _path(entry)))
        config = _blob(archive, _path(manifest["config"]))
        (layer,) = manifest["layers"]
        packed = archive.extractfile(_path(layer))
        if packed is None:
            raise hosts.BenchError(f"{layout.name} lacks its layer")
        size = zstandard.ZstdDecompressor().copy_stream(packed, plain)[1]
        names = f"{sha256(config).hexdigest()}.json", f"{layer['digest'].partition(':')[2]}/layer.tar"
        name = entry["annotations"]["org.opencontainers.image.ref.name"]
        listed = json.dumps([{"Config": names[0], "RepoTags": [name], "Layers": [names[1]]}]).encode()
        plain.seek(0)
        with tarfile.open(output, "w") as made:
            for member, data in ((names[0], config), ("manifest.json", listed)):
                made.addfile(_info(member, len(data)), io.BytesIO(data))
            made.addfile(_info(names[1], size), plain)
    return size


def _path(descriptor: Mapping[str, str]) -> str:
    return "blobs/" + descriptor["digest"].replace(":", "/")


def _blob(archive: tarfile.TarFile, name: str) -> bytes:
    stream = archive.extractfile(name)
    if stream is None:
        raise hosts.BenchError(f"the archive lacks {name}")
    return stream.read()


def _info(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    return info


def archives() -> tuple[Path, Path]:
    """Return the archives of the small image that is started and of the large one that is imported."""
    made = []
    layer = hosts.WORK / "layer.oci.tar"
    site = hosts.make_site()
    declared = hosts.WORK / "layer/image.yaml"  # its lock is written beside it
    declared.parent.mkdir(exist_ok=True)
    shutil.copyfile(RELEASE / "image.yaml", declared)
    hosts.hostctl("image", "build", declared, "-o", layer)
    for source in (site, layer):
        output = source.with_name(source.name.replace(".oci.", ".docker."))
        docker_archive(source, output)
        made.append(output)
    return made[0], made[1]


def build() -> Path:
    """Build the release and return the folder with what was made."""
    return hosts.build_with(RELEASE, LAID_OVER, LINKS)


def version(ssh: Ssh) -> str:
    """Return what is compared, with versions."""
    programs = ("dockerd", "podman", "crun", "runc", "systemctl")
    return ", ".join(ssh.run([name, "--version"], seconds=120).text.splitlines()[0] for name in programs)
