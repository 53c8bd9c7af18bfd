"""Which image a workload runs."""

from __future__ import annotations

import inspect

from hostctl.agent import images
from hostctl.agent.generation import Pin
from hostctl.config.load import parse_host
from hostctl.config.values import ImageReference
from hostctl.image.oci import ImageConfig
from hostctl.image.store import StoredImage

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
        self.pulled: list[tuple[str, str | None, bool]] = []

    def get(self, digest: str) -> StoredImage | None:
        return image(digest) if digest in self.digests else None

    def find(self, reference: ImageReference) -> StoredImage | None:
        return image(self.named) if self.named and str(reference) == NAME else None

    def pull(self, reference: ImageReference, digest: str | None, insecure: bool) -> StoredImage:
        self.pulled.append((str(reference), digest, insecure))
        return image(NEW)


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


def test_what_is_not_here_comes_from_the_registry() -> None:
    store = Store()
    assert chosen(store, {}) == NEW
    assert store.pulled == [(NAME, None, False)]


def test_an_insecure_registry_is_used_only_where_declared() -> None:
    store = Store()
    chosen(store, {}, HOST + "registries: {'registry.example:5000': {insecure: true}}\n")
    chosen(store, {}, HOST + "registries: {'other.example': {insecure: true}}\n")
    assert [insecure for _, _, insecure in store.pulled] == [True, False]
