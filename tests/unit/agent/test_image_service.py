"""The agent's methods on images: what is named, removed and kept, on a store below a temporary folder."""

from __future__ import annotations

import json
import tarfile
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from hostctl_lab.images import layout as make_layout

from hostctl.agent import event_log, exclusive, generation, image_service
from hostctl.agent.bus import Call
from hostctl.agent.generation import Content, Pin, Record
from hostctl.agent.image_service import ImageInUseError, ImageService, registry_host
from hostctl.agent.images import open_store, room
from hostctl.config.load import parse_host
from hostctl.errors import UsageError
from hostctl.image.lookup import UnknownImageError
from hostctl.image.recipe import RecipeError
from hostctl.image.room import ImageStoreError
from hostctl.image.store import ImageStore
from hostctl.layout import HostLayout

HOST = "version: 1\nhostname: a\nimages: {max_size: 1G}\n"


def _plain(output: Path) -> tuple[str, ...]:
    return ("sh", "-c", f"cat >{output}")


@pytest.fixture
def layout(tmp_path: Path) -> HostLayout:
    """Return a host with three images, of which generation 1 needs ``used``, and one that came with the release."""
    layout = HostLayout(root=tmp_path / "root")
    digests = {}
    for name in ("used", "spare", "baked"):
        digests[name] = make_layout(tmp_path / name, name.encode())
        store = ImageStore(layout.baked_images if name == "baked" else layout.images)
        store.add(tmp_path / name, digests[name], f"r.example/{name}:1", make=_plain)
    digests["bare"] = make_layout(tmp_path / "bare", b"bare")
    ImageStore(layout.images, protect=False).add(tmp_path / "bare", digests["bare"], "r.example/bare:1", make=_plain)
    record = Record(
        number=1,
        created="",
        release="7",
        declaration_sha256="",
        images={"web": Pin(reference="r.example/used:1", digest=digests["used"])},
    )
    content = Content(record=record, declaration=HOST, etc={}, bundles={}, network=b"{}")
    generation.store(layout, content)
    generation.put_in_force(layout, 1)
    return layout


def ask(layout: HostLayout, member: str, *arguments: str) -> Mapping[str, object]:
    """Call a method as the bus does."""
    method = next(each for each in ImageService(layout).methods() if each.name == member)
    assert method.root_only
    assert method.strings == len(arguments)
    call = Call(uid=0, arguments=arguments, descriptors=(), notify=lambda text: None)
    document: Mapping[str, object] = json.loads(method.handler(call))
    return document


def names(layout: HostLayout) -> set[str]:
    """Return the names of all images, without the registry."""
    found = ImageStore(layout.images, layout.baked_images).names()
    return {name.removeprefix("r.example/") for name in found}


def test_what_is_done_to_images_is_an_event(layout: HostLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str]] = []
    monkeypatch.setattr(event_log, "write", lambda action, name, **others: seen.append((action, name)))
    ask(layout, "TagImage", "r.example/spare:1", "r.example/spare:2")
    ask(layout, "RemoveImage", "r.example/spare:1")
    ask(layout, "RemoveImage", "r.example/spare:2")
    ask(layout, "PruneImages", "all")
    assert seen == [
        ("tag", "r.example/spare:2"),
        ("untag", "r.example/spare:1"),
        ("delete", "r.example/spare:2"),
        ("delete", "r.example/bare:1"),
    ]


def test_an_image_has_many_names_and_leaves_with_the_last(layout: HostLayout) -> None:
    tagged = ask(layout, "TagImage", "r.example/spare:1", "r.example/spare:2")
    assert tagged["reference"] == "r.example/spare:2"
    digest = str(tagged["digest"])
    with pytest.raises(ImageStoreError, match="several names"):
        ask(layout, "RemoveImage", digest[7:19])
    assert ask(layout, "RemoveImage", "r.example/spare:1") == {"untagged": ["r.example/spare:1"], "deleted": []}
    assert ask(layout, "RemoveImage", digest[7:19]) == {"untagged": ["r.example/spare:2"], "deleted": [digest]}
    assert names(layout) == {"used:1", "baked:1", "bare:1"}
    assert len(list((layout.images / "layers").glob("*.erofs"))) == 2
    with pytest.raises(UnknownImageError):
        ask(layout, "RemoveImage", digest[7:19])


def test_a_digest_counts_in_its_repository(layout: HostLayout) -> None:
    tagged = ask(layout, "TagImage", "r.example/spare:1", "a.example/live:1")
    for place in ("a.example/other", "r.example/live", "b.example/spare"):
        with pytest.raises(UnknownImageError):
            ask(layout, "RemoveImage", f"{place}@{tagged['digest']}")
    gone = ask(layout, "RemoveImage", f"r.example/spare@{tagged['digest']}")
    assert gone == {"untagged": ["r.example/spare:1"], "deleted": []}
    assert "a.example/live:1" in names(layout)


def test_what_a_generation_needs_and_what_came_with_the_release_stays(layout: HostLayout) -> None:
    with pytest.raises(ImageInUseError) as caught:
        ask(layout, "RemoveImage", "r.example/used:1")
    assert caught.value.details == "workload web of generation 1"
    with pytest.raises(ImageInUseError, match="came with the release"):
        ask(layout, "RemoveImage", "r.example/baked:1")
    assert names(layout) == {"used:1", "spare:1", "baked:1", "bare:1"}


def test_a_name_of_a_baked_image_comes_and_goes(layout: HostLayout) -> None:
    ask(layout, "TagImage", "r.example/baked:1", "nginx")
    assert ask(layout, "RemoveImage", "nginx") == {"untagged": ["docker.io/library/nginx:latest"], "deleted": []}
    with pytest.raises(ImageStoreError, match="digest"):
        ask(layout, "TagImage", "r.example/baked:1", f"nginx@sha256:{'1' * 64}")


def test_pruning_removes_what_has_no_name_or_all_that_is_unused(layout: HostLayout) -> None:
    assert ask(layout, "PruneImages", "nameless") == {"deleted": [], "bytes": 0}
    ask(layout, "TagImage", "r.example/used:1", "r.example/spare:1")
    pruned = ask(layout, "PruneImages", "nameless")
    assert len(pruned["deleted"]) == 1  # type: ignore[arg-type]  # a list, by the method's documentation
    assert pruned["bytes"]
    assert len(ask(layout, "PruneImages", "all")["deleted"]) == 1  # type: ignore[arg-type]  # as above
    assert names(layout) == {"used:1", "spare:1", "baked:1"}


def test_the_store_is_bounded_as_declared(layout: HostLayout) -> None:
    assert room(layout, parse_host(HOST, "host.yaml")) == 1 << 30
    whole = room(layout, None)
    assert whole > 1 << 20
    store = open_store(layout, parse_host(HOST.replace("1G", "1K"), "host.yaml"))
    with pytest.raises(ImageStoreError, match="may take 1024"):
        store.make_room(0)
    assert names(layout) == {"used:1", "baked:1"}


def test_what_cannot_be_written_out_is_said(layout: HostLayout) -> None:
    with pytest.raises(UsageError, match="has a digest"):
        ask(layout, "PushImage", f"nginx@sha256:{'1' * 64}")
    with pytest.raises(UnknownImageError):
        ask(layout, "PushImage", "r.example/gone:1")
    with pytest.raises(RecipeError, match="no recipe"):
        ask(layout, "PushImage", "r.example/bare:1")


def test_an_archive_has_the_names_that_were_asked_for(layout: HostLayout, tmp_path: Path) -> None:
    ask(layout, "TagImage", "r.example/spare:1", "r.example/spare:2")
    method = next(each for each in ImageService(layout).methods() if each.name == "SaveImages")
    assert (method.strings, method.descriptors) == (1, 1)
    wanted = json.dumps(["r.example/spare:1", "r.example/spare:2", "r.example/used:1"])
    with pytest.raises(RecipeError), (tmp_path / "out").open("wb") as file:  # the store of these tests has no EROFS
        method.handler(Call(uid=0, arguments=(wanted,), descriptors=(file.fileno(),), notify=lambda text: None))
    with tarfile.open(tmp_path / "out", "r|") as tar:  # up to where it breaks off
        listed = tar.extractfile(next(member for member in tar if member.name == "manifest.json"))
        assert listed
        assert [entry["RepoTags"] for entry in json.loads(listed.read())] == [
            ["r.example/spare:1", "r.example/spare:2"],
            ["r.example/used:1"],
        ]


def test_names_of_docker_hub_are_one_registry() -> None:
    for name in ("docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"):
        assert registry_host(name) == "docker.io"
    with pytest.raises(UsageError):
        registry_host("https://docker.io")


def test_two_that_change_images_wait_for_each_other(layout: HostLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    held, told = exclusive.lock(layout), threading.Event()
    call = Call(uid=0, arguments=("r.example/spare:1", "other:1"), descriptors=(), notify=lambda text: told.set())
    with held:
        tagging = threading.Thread(target=ImageService(layout).tag, args=(call,))
        tagging.start()
        assert told.wait(10)
        assert tagging.is_alive()
        monkeypatch.setattr(image_service, "PATIENCE", 0.0)
        with pytest.raises(exclusive.BusyError):
            ImageService(layout).tag(call)
    tagging.join(10)
    assert "docker.io/library/other:1" in ImageStore(layout.images).names()
