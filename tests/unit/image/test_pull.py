"""A real registry, skopeo and mkfs.erofs: pull, moved tags, platforms, what is fetched, what a refusal says."""

import json
import random
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from hostctl_lab.images import layer, layout

from hostctl.config.values import ImageReference
from hostctl.image.layers import MakeErofs
from hostctl.image.oci import ImageFormatError, parse_config, parse_manifest
from hostctl.image.pull import PullError
from hostctl.image.refusal import NotThereError, RateLimitError, UnauthorizedError
from hostctl.image.registry import Access, Mirror
from hostctl.image.room import NoRoomError
from hostctl.image.store import ImageStore
from hostctl.image.tarstream import LayerError
from tests.unit.image.conftest import Puller

Push = Callable[..., None]


def blobs_read(log: Path, digest: str) -> int:
    """Return how often a registry was asked for a blob."""
    return sum("GET /v2/" in line and f"/blobs/{digest} " in line for line in log.read_text().splitlines())


def test_pull_keeps_to_the_digest_when_the_tag_moves(registry: str, push: Push, puller: Puller, tmp_path: Path) -> None:
    first, second = layout(tmp_path / "one", b"one"), layout(tmp_path / "two", b"two")
    reference = ImageReference(f"{registry}/site:1")
    push(tmp_path / "one", reference)
    digest = puller.resolve(reference)
    push(tmp_path / "two", reference)
    image = puller.pull(reference, digest)
    assert (digest, image.digest) == (first, first)
    assert image.config.entrypoint == ("/bin/x",)
    assert image.layers[0].read_bytes()[1024:1028] == b"\xe2\xe1\xf5\xe0"
    assert puller.resolve(reference) == second
    assert puller.store.find(reference) == image
    other = ImageReference(f"{registry}/copy:1")
    push(tmp_path / "one", other)
    assert puller.pull(other, digest).layers == image.layers
    assert [each.reference for each in puller.store.list()] == [str(other), str(reference)]
    assert not list((tmp_path / "store/tmp").iterdir()) + list((tmp_path / "store/incoming").iterdir())
    assert puller.store.collect({first}) == ()
    assert len(puller.store.collect(set())) == 5
    assert puller.store.list() == ()


@pytest.mark.parametrize("kind", ["gzip", "zstd", "none", "docker"])
def test_every_kind_of_image_is_pulled(registry: str, push: Push, puller: Puller, tmp_path: Path, kind: str) -> None:
    docker = kind == "docker"
    digest = layout(tmp_path / "one", b"one", b"two", docker=docker, compression="gzip" if docker else kind)
    reference = ImageReference(f"{registry}/team/site:1")
    if docker:
        puller.upload(tmp_path / "one", reference)
    else:
        push(tmp_path / "one", reference)
    image = puller.pull(reference)
    assert image.digest == digest
    assert len(image.layers) == 2
    told = " ".join(puller.told)
    assert "of 0.0 MiB" in told
    assert "layers imported" in told


def test_the_platform_is_chosen(registry: str, puller: Puller, tmp_path: Path) -> None:
    arm, plain = {"os": "linux", "architecture": "arm64"}, {"os": "linux", "architecture": "amd64"}
    digest = layout(tmp_path / "one", b"one", platforms=[arm, {**plain, "variant": "v3"}, plain])
    reference = ImageReference(f"{registry}/site:1")
    puller.upload(tmp_path / "one", reference)
    index = json.loads((tmp_path / "one/index.json").read_text())["manifests"][0]["digest"]
    assert puller.resolve(reference) == digest
    pinned = ImageReference(f"{registry}/site:gone@{index}")
    assert puller.pull(pinned).digest == digest
    assert puller.store.names() == {str(pinned): digest}
    found = puller.store.find(pinned)
    assert found is not None
    assert found.digest == digest
    layout(tmp_path / "arm", b"one", platforms=[arm, {"os": "unknown", "architecture": "unknown"}])
    puller.upload(tmp_path / "arm", reference)
    with pytest.raises(ImageFormatError, match="not made for linux/amd64") as caught:
        puller.resolve(reference)
    assert caught.value.details == "it is for linux/arm64"


def test_only_what_is_missing_is_fetched(registry: str, push: Push, puller: Puller, tmp_path: Path) -> None:
    layout(tmp_path / "old", b"shared", b"old")
    digest = layout(tmp_path / "new", b"shared", b"whole", b"missing")
    old, new = ImageReference(f"{registry}/site:1"), ImageReference(f"{registry}/site:2")
    push(tmp_path / "old", old)
    push(tmp_path / "new", new)
    puller.pull(old)
    blobs = [each["digest"] for each in json.loads(_manifest(tmp_path / "new", digest))["layers"]]
    incoming = puller.store.incoming(digest)
    (incoming / "blobs/sha256").mkdir(parents=True)
    names = [each.removeprefix("sha256:") for each in blobs]
    whole = (tmp_path / "new/blobs/sha256" / names[1]).read_bytes()
    (incoming / "blobs/sha256" / names[1]).write_bytes(whole)  # what a cut left, one whole and one torn
    (incoming / "blobs/sha256" / names[2]).write_bytes(b"torn")
    (incoming / "oci-put-blob123").write_bytes(b"torn")
    log = tmp_path / "registry/registry.log"
    before = [blobs_read(log, each) for each in blobs]
    image = puller.pull(new)
    assert image.digest == digest
    assert len(image.layers) == 3
    fetched = [blobs_read(log, each) - count for each, count in zip(blobs, before, strict=True)]
    assert fetched == [0, 0, 1]
    assert not list((tmp_path / "store/incoming").iterdir())


def _manifest(folder: Path, digest: str) -> bytes:
    return (folder / "blobs/sha256" / digest.removeprefix("sha256:")).read_bytes()


def test_a_pull_that_was_cut_off_goes_on_where_it_stopped_within_a_limit(
    registry: str, push: Push, puller: Puller, tmp_path: Path
) -> None:
    noise = random.Random(2).randbytes(200_000)  # noqa: S311 - data that cannot be compressed
    digest = layout(tmp_path / "site", b"imported", noise, b"missing")
    push(tmp_path / "site", f"{registry}/site:1")
    manifest = parse_manifest(_manifest(tmp_path / "site", digest))
    diff_ids = parse_config(_manifest(tmp_path / "site", manifest.config.digest)).diff_ids
    blobs = [tmp_path / "site/blobs/sha256" / each.digest.removeprefix("sha256:") for each in manifest.layers]
    incoming = puller.store.incoming(digest) / "blobs/sha256"
    incoming.mkdir(parents=True)
    puller.store.take_layer(blobs[0], manifest.layers[0], diff_ids[0], make=puller.make)  # no manifest leads to it yet
    (incoming / blobs[1].name).write_bytes(blobs[1].read_bytes())
    puller.store.limit = 300_000  # the large layer fits in once
    log = tmp_path / "registry/registry.log"
    before = [blobs_read(log, each.digest) for each in manifest.layers]
    assert puller.pull(ImageReference(f"{registry}/site:1")).digest == digest
    fetched = [blobs_read(log, each.digest) - count for each, count in zip(manifest.layers, before, strict=True)]
    assert fetched == [0, 0, 1]


def test_a_layer_that_occurs_twice_and_one_that_is_no_layer(
    registry: str, push: Push, puller: Puller, tmp_path: Path
) -> None:
    layout(tmp_path / "twice", b"same", b"same")
    push(tmp_path / "twice", f"{registry}/twice:1")
    image = puller.pull(ImageReference(f"{registry}/twice:1"))
    assert image.layers[0] == image.layers[1]
    layout(tmp_path / "bad", b"fine", tars=[layer(b"x", "../outside")])
    push(tmp_path / "bad", f"{registry}/bad:1")
    with pytest.raises(LayerError, match="unsafe name"):
        puller.pull(ImageReference(f"{registry}/bad:1"))
    assert [each.reference for each in puller.store.list()] == [f"{registry}/twice:1"]


def test_an_image_that_cannot_fit_leaves_nothing(registry: str, push: Push, puller: Puller, tmp_path: Path) -> None:
    layout(tmp_path / "one", b"one")
    layout(tmp_path / "large", random.Random(1).randbytes(500_000))  # noqa: S311 - data that cannot be compressed
    for name in ("one", "large"):
        push(tmp_path / name, f"{registry}/{name}:1")
    one = puller.pull(ImageReference(f"{registry}/one:1"))
    puller.store.limit = 300_000
    with pytest.raises(NoRoomError, match="300000"):
        puller.pull(ImageReference(f"{registry}/large:1"))
    assert [each.digest for each in puller.store.list()] == [one.digest]
    assert [path.suffix for path in sorted((tmp_path / "store/layers").iterdir())] == [".check", ".erofs", ".recipe"]


def test_missing_images_and_registries_are_told(registry: str, puller: Puller, tmp_path: Path) -> None:
    for name in (f"site@sha256:{'0' * 64}", "site:1"):
        with pytest.raises(NotThereError, match="no such image"):
            puller.resolve(ImageReference(f"{registry}/{name}"))
    with pytest.raises(PullError, match="cannot be reached"):
        puller.resolve(ImageReference("127.0.0.1:1/site:1"))
    assert not list((tmp_path / "run").iterdir())


class _Refuses(BaseHTTPRequestHandler):
    status, headers_sent = 403, {"Content-Type": "application/json"}

    def do_GET(self) -> None:
        manifest = "/manifests/" in self.path
        self.send_response(self.status if manifest else 200)
        for name, value in self.headers_sent.items():
            self.send_header(name, value)
        body = b"{}"
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 - as above

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def refusing() -> Iterator[str]:
    """Return a registry that has nothing but refusals."""
    server = HTTPServer(("127.0.0.1", 0), _Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_refusal_names_the_verb_that_helps(refusing: str, puller: Puller, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnauthorizedError) as caught:
        puller.resolve(ImageReference(f"{refusing}/site:1"))
    assert f"hostctl login {refusing}" in caught.value.hint
    limits = {"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "0;w=21600", "Retry-After": "1"}
    monkeypatch.setattr(_Refuses, "status", 429)
    monkeypatch.setattr(_Refuses, "headers_sent", {"Content-Type": "application/json", **limits})
    with pytest.raises(RateLimitError) as limited:
        puller.resolve(ImageReference(f"{refusing}/site:1"))
    assert "ratelimit-limit: 100;w=21600" in limited.value.details
    assert "try again in 1 s" in limited.value.hint


def test_mirrors_are_asked_first_and_the_registry_when_they_fail(
    registry: str, push: Push, puller: Puller, tmp_path: Path
) -> None:
    layout(tmp_path / "one", b"one")
    push(tmp_path / "one", f"{registry}/hub/library/nginx:1")
    dead = Mirror(location="127.0.0.1:1/x", insecure=True)
    there = Mirror(location=f"{registry}/hub", insecure=True)
    access = Access(mirrors=(dead, there))
    image = puller.pull(ImageReference("nginx:1"), access=access)
    assert image.reference == "docker.io/library/nginx:1"
    push(tmp_path / "one", f"{registry}/direct:1")
    direct = ImageReference(f"{registry}/direct:1")
    assert puller.pull(direct, access=Access(insecure=True, mirrors=(dead,))).digest == image.digest


def test_the_registry_itself_is_asked_when_a_mirror_has_but_a_part(
    registry: str, push: Push, puller: Puller, tmp_path: Path
) -> None:
    digest = layout(tmp_path / "one", b"one", b"two")
    for name in ("mirror/site:1", "site:1"):
        push(tmp_path / "one", f"{registry}/{name}")
    lacking = parse_manifest(_manifest(tmp_path / "one", digest)).layers[1].digest.removeprefix("sha256:")
    (link,) = (tmp_path / "registry").glob(f"**/repositories/mirror/site/_layers/sha256/{lacking}/link")
    link.unlink()
    access = Access(insecure=True, mirrors=(Mirror(location=f"{registry}/mirror", insecure=True),))
    assert puller.pull(ImageReference(f"{registry}/site:1"), access=access).digest == digest
    (said,) = [each for each in puller.told if each.startswith("mirror ")]
    assert said.startswith(f"mirror {registry}/mirror: pulling {registry}/site:1 is not possible")
    log = (tmp_path / "registry/registry.log").read_text()
    assert "GET /v2/mirror/site/manifests/" in log
    assert f"GET /v2/site/blobs/sha256:{lacking} " in log


def test_what_is_pulled_has_layers_of_its_own_and_outlives_the_release(
    registry: str, push: Push, puller: Puller, make: MakeErofs, tmp_path: Path
) -> None:
    layout(tmp_path / "base", b"shared")
    digest = layout(tmp_path / "site", b"shared", b"more")
    baked = ImageStore(tmp_path / "baked", protect=False)
    came = baked.add(tmp_path / "base", layout(tmp_path / "again", b"shared"), "r.example/base:1", make=make)
    puller.store = ImageStore(tmp_path / "store", tmp_path / "baked")
    push(tmp_path / "site", f"{registry}/site:1")
    image = puller.pull(ImageReference(f"{registry}/site:1"))
    assert {path.parent for path in image.layers} == {tmp_path / "store/layers"}
    assert all(path.with_suffix(".recipe").is_file() for path in image.layers)
    found = puller.store.get(came.digest)
    assert found is not None
    assert found.layers == came.layers  # the release's own stays what it runs from
    alone = ImageStore(tmp_path / "store").get(digest)
    assert alone is not None
    assert alone.layers == image.layers
