"""A repository whose signers mean harm, or whose disk does: the publisher's tools name it, and change nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tuf.api.metadata import TargetFile, Targets

from hostctl.errors import HostctlError
from hostctl.repository.expire import expire
from hostctl.repository.keyring import NewKeys, make_keys
from hostctl.repository.metadata import MetadataError
from hostctl.repository.offers import initialise, promote
from hostctl.repository.stats import stats
from hostctl.repository.store import Store
from hostctl.repository.verify import verify

NOW = datetime.now(UTC)


@pytest.fixture
def made() -> NewKeys:
    return make_keys(NOW, channels=("stable", "beta"))


@pytest.fixture
def repository(tmp_path: Path, made: NewKeys) -> Path:
    initialise(tmp_path / "updates", made.keyring)
    return tmp_path / "updates"


def listing(target: str, hashes: dict[str, str] | None = None) -> Callable[[Targets], None]:
    """Return what lists a target in a channel."""

    def edit(targets: Targets) -> None:
        targets.targets[target] = TargetFile(1, hashes or {"sha256": "ab" * 32}, target)

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        listing("../../../etc/passwd"),
        listing("/etc/x86-64/stable/x"),
        listing("../x86-64/stable/passwd"),
        listing("edge/../stable/1/release.json"),
        listing("edge/x86-64/beta/1/release.json"),
        listing("edge/x86-64/stable/releases.json", {"sha512": "ab" * 64}),
        listing("edge/x86-64/stable/releases.json", {"sha256": "../../x"}),
        listing("edge/x86-64/stable/" + "a/" * 50),
        listing(""),
    ],
)
def test_a_channel_that_lists_what_it_may_not(repository: Path, made: NewKeys, edit: Callable[[Targets], None]) -> None:
    store = Store.open(repository)
    edit(store.channel("stable"))
    store.touch("stable")
    store.commit(made.keyring, NOW)
    before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    assert any("may not" in error.problem for error in verify(repository).errors)
    for action in (
        lambda: stats(repository),
        lambda: expire(repository, made.keyring),
        lambda: promote(repository, made.keyring, "1", "beta"),
    ):
        with pytest.raises(MetadataError, match="may not"):
            action()
    assert {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()} == before


def test_a_snapshot_that_forgets_a_role(repository: Path, made: NewKeys) -> None:
    for name in ("targets", "stable"):
        store = Store.open(repository)
        meta = store.roles.snapshot.meta.pop(f"{name}.json")
        store.touch("snapshot")
        store.commit(made.keyring, NOW)
        with pytest.raises(MetadataError, match=f"does not name the metadata of {name}"):
            Store.open(repository)
        store.roles.snapshot.meta[f"{name}.json"] = meta
        store.touch("snapshot")
        store.commit(made.keyring, NOW)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"null", b"[" * 100_000, b"\xff", b'{"signed":{},"signatures":[]}']
)
@pytest.mark.parametrize(
    "name", ["1.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json", "1.stable.json"]
)
def test_nonsense_on_the_disk(repository: Path, made: NewKeys, name: str, data: bytes) -> None:
    (repository / "metadata" / name).write_bytes(data)
    assert verify(repository).errors
    for action in (lambda: stats(repository), lambda: initialise(repository, made.keyring)):
        with pytest.raises(HostctlError):
            action()
    assert (repository / "metadata" / name).read_bytes() == data


def test_offers_and_descriptions_that_are_nonsense(repository: Path, made: NewKeys) -> None:
    store = Store.open(repository)
    for name, data in (("1/release.json", b"{}"), ("1/deltas.json", b"[]"), ("releases.json", b"null")):
        store.put("stable", f"edge/x86-64/stable/{name}", data)
    store.commit(made.keyring, NOW)
    errors = verify(repository).errors
    assert len(errors) >= 3
    for action in (
        lambda: stats(repository),
        lambda: promote(repository, made.keyring, "1", "beta"),
        lambda: expire(repository, made.keyring),
    ):
        with pytest.raises(HostctlError):
            action()
