"""Which image a workload runs."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest

from hostctl.agent import building, images
from hostctl.agent.generation import Pin
from hostctl.config.load import parse_host
from hostctl.config.problems import DeclarationError
from hostctl.config.values import ImageReference
from hostctl.image import pull as pulling
from hostctl.image.oci import ImageConfig
from hostctl.image.refusal import NotThereError
from hostctl.image.registry import DIRECT, Mirror, access
from hostctl.image.store import ImageStore, StoredImage
from hostctl.layout import HostLayout

OLD, NEW = "sha256:" + "1" * 64, "sha256:" + "2" * 64
NAME = "registry.example:5000/site:1"
HOST = f"version: 1\nhostname: a\nworkloads: {{site: {{image: '{NAME}'}}}}\n"


def image(digest: str) -> StoredImage:
    fields = inspect.signature(ImageConfig).parameters
    empty = {name: () for name, field in fields.items() if field.default is inspect.Parameter.empty}
    return StoredImage(reference=NAME, digest=digest, config=ImageConfig(**empty), layers=(), bytes=0)  # type: ignore[arg-type]


class Store:
    """Images on a host, by digest and by name, and a registry that gives NEW."""

    def __init__(self, *digests: str, named: str | None = None) -> None:
        self.digests = digests
        self.named = named
        self.pulled: list[tuple[str, str | None]] = []
        self.signed: set[str] = set()
        self.gone: set[str] = set()

    def get(self, digest: str) -> StoredImage | None:
        return image(digest) if digest in self.digests else None

    def find(self, reference: ImageReference) -> StoredImage | None:
        return image(self.named) if self.named and str(reference) == NAME else None

    def is_signed(self, digest: str, by: str) -> bool:
        return not by or digest in self.signed

    def pull(self, reference: ImageReference, digest: str | None) -> StoredImage:
        self.pulled.append((str(reference), digest))
        if digest in self.gone:
            raise NotThereError("the registry has no such image")
        return image(digest or NEW)


def chosen(store: Store, pins: dict[str, Pin], text: str = HOST) -> str:
    return images.choose(parse_host(text, "host.yaml"), pins, store, store.pull)["site"].digest


def test_a_pinned_image_stays_although_the_name_moved() -> None:
    store = Store(OLD, NEW, named=NEW)
    assert chosen(store, {"site": Pin(reference=NAME, digest=OLD)}) == OLD
    assert store.pulled == []


def test_a_changed_reference_is_looked_up_by_its_name() -> None:
    store = Store(OLD, NEW, named=NEW)
    assert chosen(store, {"site": Pin(reference="registry.example/other:1", digest=OLD)}) == NEW


def test_a_pinned_image_that_left_with_its_release_is_found_by_name() -> None:
    assert chosen(Store(NEW, named=NEW), {"site": Pin(reference=NAME, digest=OLD)}) == NEW


def test_a_pinned_image_that_is_not_here_is_asked_for_before_what_its_name_stands_for() -> None:
    store, pins = Store(), {"site": Pin(reference=NAME, digest=OLD)}
    assert chosen(store, pins) == OLD
    assert store.pulled == [(NAME, OLD)]
    store.gone.add(OLD)
    assert chosen(store, pins) == NEW
    assert store.pulled[1:] == [(NAME, OLD), (NAME, None)]


def test_an_image_that_is_here_by_its_name_alone_says_nothing_of_what_is_signed() -> None:
    store = Store(OLD, named=OLD)
    assert chosen(store, {}, SIGNED) == NEW
    assert store.pulled == [(NAME, None)]


def test_a_digest_that_is_declared_may_be_one_of_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def resolve(reference: ImageReference, **rest: object) -> str:
        asked.append(str(reference))
        return NEW

    monkeypatch.setattr(pulling, "resolve", resolve)
    monkeypatch.setattr(pulling, "pull", lambda reference, digest, store, **rest: image(digest))
    registries = images.Registries(
        layout=HostLayout(root=tmp_path), declaration=None, store=ImageStore(tmp_path / "store")
    )
    index = ImageReference(f"{NAME}@{OLD}")
    assert registries(index, OLD).digest == NEW
    assert registries(ImageReference(NAME), None).digest == NEW
    assert asked == [str(index), NAME]
    assert registries(ImageReference(NAME), OLD).digest == OLD  # of a generation: that very manifest
    assert len(asked) == 2


def test_what_is_not_here_comes_from_the_registry() -> None:
    store = Store()
    assert chosen(store, {}) == NEW
    assert store.pulled == [(NAME, None)]


def test_what_only_a_registry_could_give_is_named_once() -> None:
    twice = parse_host(HOST.replace("'}}", "'}, again: {image: '" + NAME + "'}}"), "host.yaml")
    assert len(twice.workloads) == 2
    assert images.lacking(twice, Store()) == (NAME,)
    assert images.lacking(twice, Store(NEW, named=NEW)) == ()
    signed, store = parse_host(SIGNED, "host.yaml"), Store(NEW, named=NEW)
    assert images.lacking(signed, store) == (NAME,)
    store.signed.add(NEW)
    assert images.lacking(signed, store) == ()


BODY = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEYnHHJNgTIqoSiDHfCDBepA83h9n4"
KEY = f"-----BEGIN PUBLIC KEY-----\n{BODY}\n-----END PUBLIC KEY-----\n"
SIGNED = HOST + f"images: {{signatures: {{require: cosign, key: {json.dumps(KEY)}}}}}\n"


def test_an_image_that_is_here_is_asked_for_its_signature_when_one_is_wanted() -> None:
    store = Store(OLD, named=OLD)
    assert chosen(store, {"site": Pin(reference=NAME, digest=OLD)}, SIGNED) == OLD
    assert store.pulled == [(NAME, OLD)]
    store.signed.add(OLD)
    assert chosen(store, {"site": Pin(reference=NAME, digest=OLD)}, SIGNED) == OLD
    assert len(store.pulled) == 1


def test_access_is_what_is_declared_for_a_registry_and_its_mirrors() -> None:
    text = SIGNED + (
        "registries:\n  docker.io: {mirrors: ['mirror.example:5000/hub']}\n"
        "  mirror.example:5000: {insecure: true}\n  free.example: {signatures: {require: none}}\n"
    )
    declaration = parse_host(text, "host.yaml")
    found = access(declaration, "docker.io", {"mirror.example:5000": "bWU6c2VjcmV0"}.get)
    assert found.mirrors == (Mirror(location="mirror.example:5000/hub", insecure=True),)
    assert (found.insecure, found.key, dict(found.credentials)) == (False, KEY, {"mirror.example:5000": "bWU6c2VjcmV0"})
    assert "bWU6c2VjcmV0" not in repr(found)
    assert access(declaration, "free.example").key == ""
    assert access(declaration, "mirror.example:5000").insecure
    assert access(None, "docker.io") == DIRECT


def test_a_registry_may_want_digests() -> None:
    text = HOST + "registries: {'registry.example:5000': {signatures: {require: digest}}}\n"
    with pytest.raises(DeclarationError) as caught:
        parse_host(text, "host.yaml")
    assert "workloads.site.image: images of registry.example:5000 must" in caught.value.render()
    parse_host(text.replace("/site:1", f"/site:1@{OLD}"), "host.yaml")


def test_a_renewed_image_goes_before_the_pin_and_what_the_name_stood_for() -> None:
    host = parse_host(HOST, "host.yaml")
    pins, renewed = {"site": Pin(reference=NAME, digest=OLD)}, {"site": Pin(reference=NAME, digest=NEW)}
    for store, asked in ((Store(OLD, named=OLD), [(NAME, NEW)]), (Store(OLD, NEW, named=OLD), [])):
        assert images.choose(host, pins, store, store.pull, renewed)["site"].digest == NEW
        assert store.pulled == asked
    other = {"site": Pin(reference="r.example/other:1", digest=NEW)}
    assert images.choose(host, pins, store, store.pull, other)["site"].digest == OLD


VOLUME = HOST.replace("'}", f"', image_volumes: {{/files: '{NAME}'}}}}")


def test_another_image_may_be_wanted_where_one_is_mounted() -> None:
    store, pin = Store(OLD, named=OLD), Pin(reference=NAME, digest=NEW)
    host = parse_host(VOLUME, "host.yaml")
    assert images.choose_mounted(host, {}, store, store.pull, {"site:/files": pin})["site:/files"].digest == NEW
    assert store.pulled == [(NAME, NEW)]


@pytest.mark.parametrize(("policy", "pulled"), [("missing", [(NAME, None)]), ("always", [(NAME, None)]), ("never", [])])
def test_only_never_keeps_what_is_not_here_from_being_pulled(policy: str, pulled: list[tuple[str, str | None]]) -> None:
    store, text = Store(), VOLUME.replace("site:1',", f"site:1', pull_policy: {policy},")
    host = parse_host(text, "host.yaml")
    if policy == "never":
        with pytest.raises(images.ImageNotHereError) as caught:
            images.choose(host, {"site": Pin(reference=NAME, digest=OLD)}, store, store.pull)
        assert caught.value.details == f"workloads.site.image: {NAME} is not here"
        assert "hostctl load" in caught.value.hint
        with pytest.raises(images.ImageNotHereError, match="never"):
            images.choose_mounted(host, {}, store, store.pull)
        here = Store(OLD, named=OLD)
        assert images.choose(host, {}, here, here.pull)["site"].digest == OLD
    else:
        images.choose(host, {}, store, store.pull)
    assert store.pulled == pulled


def test_never_does_not_look_for_a_signature_either() -> None:
    store, text = Store(OLD, named=OLD), SIGNED.replace("site:1'}", "site:1', pull_policy: never}")
    with pytest.raises(images.ImageNotHereError) as caught:
        chosen(store, {}, text)
    assert caught.value.details.endswith("is not known to be signed")
    assert store.pulled == []


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ("workloads: {{site: {{image: 'r.example/x@{old}', image_volumes: {{/models: '{name}'}}}}}}", "image_volumes"),
        ("build: {{image: '{name}'}}", "build.image"),
    ],
)
def test_digests_are_wanted_of_whatever_a_declaration_names(more: str, place: str) -> None:
    text = "version: 1\nhostname: a\nimages: {signatures: {require: digest}}\n"
    with pytest.raises(DeclarationError) as caught:
        parse_host(text + more.format(name=NAME, old=OLD), "host.yaml")
    assert place in caught.value.render()
    assert "images of registry.example:5000 must be named by digest" in caught.value.render()
    parse_host(text + more.format(name=f"{NAME}@{OLD}", old=OLD), "host.yaml")


def test_a_signature_is_wanted_of_image_volumes_too() -> None:
    text = SIGNED.replace(f"'{NAME}'", f"'{NAME}', image_volumes: {{/models: '{NAME}'}}")
    store, pins = Store(OLD, named=OLD), {"site:/models": Pin(reference=NAME, digest=OLD)}
    for _ in range(2):
        assert images.choose_mounted(parse_host(text, "x"), pins, store, store.pull)["site:/models"].digest == OLD
        store.signed.add(OLD)
    assert store.pulled == [(NAME, OLD)]


def test_a_signature_is_wanted_of_what_builds() -> None:
    text = SIGNED.replace(HOST, f"version: 1\nhostname: a\nbuild: {{image: '{NAME}'}}\n")
    store = Store(OLD, named=OLD)
    with_builder = parse_host(building.add(text, "run-build-00000000"), "x")
    assert images.choose(with_builder, {}, store, store.pull)["run-build-00000000"].digest == NEW
    assert store.pulled == [(NAME, None)]
