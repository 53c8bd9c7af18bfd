"""Which tags a change looks up, and what comes of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hostctl.agent import bus, generation, lookups, service
from hostctl.agent.generation import Content, Pin, Record
from hostctl.agent.images import Registries
from hostctl.agent.lookups import LookUpError
from hostctl.cli import plan as plan_verb
from hostctl.config.load import parse_host
from hostctl.config.values import ImageReference
from hostctl.image.refusal import PullError
from hostctl.layout import HostLayout
from hostctl.progress import Progress

SITE, FILES = "r.example/site:1", "r.example/files:1"
OLD, NEW = ("sha256:" + letter * 64 for letter in "12")
TEXT = f"""
version: 1
hostname: a
workloads:
  site: {{image: '{SITE}', pull_policy: always, image_volumes: {{/files: '{FILES}'}}}}
  again: {{image: '{SITE}', pull_policy: always}}
  fixed: {{image: 'r.example/site:1@{OLD}', pull_policy: always}}
  plain: {{image: 'r.example/plain:1'}}
  closed: {{image: 'r.example/closed:1', pull_policy: never}}
"""


@dataclass
class Registry:
    """What tags stand for; it answers for no others."""

    tags: dict[str, str]
    asked: list[str] = field(default_factory=list)

    def resolve(self, reference: ImageReference) -> str:
        self.asked.append(str(reference))
        if str(reference) not in self.tags:
            raise PullError(f"looking up {reference}", details="no route to host")
        return self.tags[str(reference)]


def test_only_tags_are_looked_up_of_those_that_want_it() -> None:
    declaration = parse_host(TEXT, "host.yaml")
    assert set(lookups.wanted(declaration)) == {"site", "site:/files", "again"}
    assert set(lookups.wanted(declaration, ["again", "plain"])) == {"again"}
    assert lookups.wanted(declaration, ()) == {}


def test_each_is_asked_for_once() -> None:
    registry, wanted = Registry({SITE: NEW, FILES: OLD}), lookups.wanted(parse_host(TEXT, "host.yaml"))
    assert lookups.look_up(wanted, registry.resolve) == {
        "site": Pin(reference=SITE, digest=NEW),
        "again": Pin(reference=SITE, digest=NEW),
        "site:/files": Pin(reference=FILES, digest=OLD),
    }
    assert registry.asked == [FILES, SITE]


def test_whatever_is_not_known_is_said_at_once() -> None:
    with pytest.raises(LookUpError) as caught:
        lookups.look_up(lookups.wanted(parse_host(TEXT, "host.yaml")), Registry({}).resolve)
    assert caught.value.exit_code == 69
    assert caught.value.details.splitlines() == [
        f"site:/files: looking up {FILES}: no route to host",
        f"again, site: looking up {SITE}: no route to host",
    ]
    assert "nothing was changed" in caught.value.brief


@pytest.fixture
def layout(tmp_path: Path) -> HostLayout:
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/os-release").write_text("IMAGE_ID=edge\nIMAGE_VERSION=1\n")
    layout = HostLayout(root=tmp_path)
    images = {"site": SITE, "again": SITE, "plain": "r.example/plain:1", "closed": "r.example/closed:1"}
    record = Record(
        number=1,
        created="",
        release="1",
        declaration_sha256="",
        images={name: Pin(reference=reference, digest=OLD) for name, reference in images.items()},
        mounted={"site:/files": Pin(reference=FILES, digest=OLD)},
    )
    generation.store(layout, Content(record=record, declaration=TEXT, etc={}, bundles={}, network=b"{}"))
    generation.put_in_force(layout, 1)
    return layout


def call(*arguments: str) -> bus.Call:
    return bus.Call(uid=0, arguments=arguments, descriptors=(), notify=lambda text: None)


def test_a_plan_shows_what_moved(layout: HostLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry({SITE: NEW, FILES: NEW})
    monkeypatch.setattr(Registries, "resolve", lambda _, reference: registry.resolve(reference))
    asked: list[Sequence[str]] = []

    def ask(member: str, *arguments: str, on_progress: Callable[[str], None], address: str | None) -> str:
        asked.append((member, *arguments))
        return service.HostService(layout).plan(call(*arguments))

    monkeypatch.setattr(bus, "call", ask)
    moved = plan_verb.planned(TEXT, "host.yaml", layout, Progress(quiet=True))
    assert [str(action) for action in moved] == [
        f"~ workload again: image {OLD[:19]} → {NEW[:19]}",
        f"~ workload site: image {OLD[:19]} → {NEW[:19]}, image of /files {OLD[:19]} → {NEW[:19]}",
    ]
    assert asked == [("Plan", TEXT, "host.yaml")]
    without = TEXT.replace("always", "missing")
    assert len(plan_verb.planned(without, "host.yaml", layout, Progress(quiet=True))) == 3  # the policies themselves
    assert len(asked) == 1


def test_an_apply_changes_nothing_when_a_registry_does_not_answer(
    layout: HostLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry({SITE: NEW})
    monkeypatch.setattr(Registries, "resolve", lambda _, reference: registry.resolve(reference))
    agent = service.HostService(layout)
    with pytest.raises(LookUpError, match="nothing was changed"):
        agent.apply(call(TEXT.replace("hostname: a", "hostname: b"), "host.yaml"))
    assert generation.numbers(layout) == [1]
    registry.tags |= {SITE: OLD, FILES: OLD}
    assert json.loads(agent.apply(call(TEXT, "host.yaml")))["actions"] == []


def test_nobody_is_asked_by_another_change_or_a_boot(layout: HostLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry({})
    monkeypatch.setattr(Registries, "resolve", lambda _, reference: registry.resolve(reference))
    declaration = parse_host(TEXT, "host.yaml")
    assert service.context(layout, booting=True).look_up(declaration) == {}
    assert service.HostService(layout)._apply(TEXT, "host.yaml", lambda text: None).actions == ()
    assert registry.asked == []
