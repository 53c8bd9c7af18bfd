"""mkfs.erofs and skopeo of the suite that releases are made of, whatever this machine has; a registry; pulls."""

import json
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hostctl_lab.registry import run_registry

from hostctl.compose import tools
from hostctl.compose.cache import Cache
from hostctl.compose.lock import cache_folder
from hostctl.compose.packages import DEFAULT_MIRROR, Apt, fetch_packages, known_packages, select
from hostctl.config.values import ImageReference
from hostctl.image.layers import MakeErofs, make_erofs, make_plain
from hostctl.image.pull import pull, resolve
from hostctl.image.registry import Access, Skopeo
from hostctl.image.store import ImageStore, StoredImage

SUITE = "trixie"


def _extract(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        apt = Apt(Path(scratch), DEFAULT_MIRROR, SUITE)
        apt.update()
        known = known_packages((url, path.read_text()) for url, path in apt.indexes())
        wanted = select(apt.resolve(["erofs-utils", "bash", "coreutils", "skopeo"]), known)
    tools.make_tools(fetch_packages(wanted, cache_folder()).items(), folder)


@pytest.fixture(scope="session")
def toolbox() -> tools.ToolsRoot:
    """Return a root with erofs-utils and skopeo."""
    return tools.ToolsRoot(Cache(cache_folder()).stage("test-image-tools", [tools], [SUITE], _extract))


@pytest.fixture(scope="session")
def make(toolbox: tools.ToolsRoot) -> Callable[[Path], Sequence[str]]:
    """Return what makes the command that turns a tar on standard input into an EROFS file."""
    return lambda output: toolbox.argv(make_erofs(output), binds=[output.parent])


@pytest.fixture(scope="session")
def make_uncompressed(toolbox: tools.ToolsRoot) -> MakeErofs:
    """Return what makes the command for a plain file, as in a release and as hosts had it before."""
    return lambda output: toolbox.argv(make_plain(output), binds=[output.parent])


PLAIN = Access(insecure=True)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """Return the address of a registry that everybody may use, by HTTP."""
    with run_registry(tmp_path / "registry") as running:
        yield running.address


@pytest.fixture(scope="session")
def push() -> Callable[..., None]:
    """Return what copies an image of a layout into a registry."""

    def copy(folder: Path, target: str, *options: str) -> None:
        argv = ["skopeo", "--insecure-policy", "copy", "-q", "--preserve-digests", "--dest-tls-verify=false", *options]
        subprocess.run([*argv, f"oci:{folder}", f"docker://{target}"], check=True)

    return copy


@dataclass(kw_only=True)
class Puller:
    """Pulls into a store of the test's."""

    store: ImageStore
    skopeo: Skopeo
    make: MakeErofs
    told: list[str] = field(default_factory=list)

    def resolve(self, reference: ImageReference, access: Access = PLAIN) -> str:
        """Return the digest that a reference stands for."""
        return resolve(reference, access=access, skopeo=self.skopeo)

    def pull(self, reference: ImageReference, digest: str = "", access: Access = PLAIN) -> StoredImage:
        """Pull a reference, or that digest of it."""
        digest = digest or self.resolve(reference, access)
        options = {"access": access, "make": self.make, "skopeo": self.skopeo, "notify": self.told.append}
        return pull(reference, digest, self.store, **options)  # type: ignore[arg-type]  # a bag of options, for brevity

    def upload(self, folder: Path, reference: ImageReference) -> None:
        """Put a layout's blobs and documents into a registry as they are; skopeo would leave some out."""
        base = f"http://{reference.registry}/v2/{reference.repository}"
        for blob in sorted((folder / "blobs/sha256").iterdir()):
            place = _ask("POST", f"{base}/blobs/uploads/")
            _ask("PUT", f"{place}&digest=sha256:{blob.name}", blob.read_bytes(), "application/octet-stream")
        entry = json.loads((folder / "index.json").read_text())["manifests"][0]
        document = (folder / "blobs/sha256" / entry["digest"].removeprefix("sha256:")).read_bytes()
        for inner in json.loads(document).get("manifests", []):
            data = (folder / "blobs/sha256" / inner["digest"].removeprefix("sha256:")).read_bytes()
            _ask("PUT", f"{base}/manifests/{inner['digest']}", data, inner["mediaType"])
        _ask("PUT", f"{base}/manifests/{reference.tag}", document, entry["mediaType"])


def _ask(method: str, url: str, data: bytes = b"", kind: str = "") -> str:
    assert url.startswith("http://127.0.0.1:")
    request = urllib.request.Request(url, data, {"Content-Type": kind} if kind else {}, method=method)  # noqa: S310
    with urllib.request.urlopen(request) as answer:  # noqa: S310 - asserted above
        return str(answer.headers["Location"])


@pytest.fixture
def skopeo(tmp_path: Path, toolbox: tools.ToolsRoot) -> Skopeo:
    """Return the program of hosts, whose sessions are below the test's folder."""
    return Skopeo(runtime=tmp_path / "run", enter=lambda words: toolbox.argv(words, binds=[tmp_path]))


@pytest.fixture
def puller(tmp_path: Path, make: MakeErofs, skopeo: Skopeo) -> Puller:
    """Return what pulls into a store below the test's folder."""
    return Puller(store=ImageStore(tmp_path / "store"), skopeo=skopeo, make=make)
