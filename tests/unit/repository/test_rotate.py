"""New keys: hosts with the old root follow at every moment, and nothing changes before there are enough signatures."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Root

from hostctl.errors import HostctlError, UsageError
from hostctl.repository.drafts import DraftError
from hostctl.repository.keyring import KeyFileError, Keyring, MissingKeyError, load_private_key, write_private_key
from hostctl.repository.metadata import MetadataError, encode, load, public, sign, signer
from hostctl.repository.offers import initialise
from hostctl.repository.publish import publish
from hostctl.repository.roles import NoChannelError
from hostctl.repository.rotate import Change, rotate, sign_file, sign_pending
from hostctl.repository.store import Store
from hostctl.repository.verify import verify

from .conftest import Clients, Workshop
from .test_publish import CutError, cut_after

TARGET = "edge/x86-64/stable/1/release.json"


@pytest.fixture
def published(workshop: Workshop) -> Workshop:
    publish(workshop.build("1"), workshop.repository, workshop.keyring)
    return workshop


def move_away(workshop: Workshop, *names: str) -> Path:
    """Take keys out of the publisher's folder, as one that keeps them offline does."""
    safe = workshop.folder / "safe"
    safe.mkdir(exist_ok=True)
    for name in names:
        shutil.move(workshop.keys / f"tuf/{name}.pem", safe / f"{name}.pem")
    return safe


def current(workshop: Workshop) -> Root:
    return Store.open(workshop.repository).roles.root


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "root", "stable"])
def test_every_role_gets_new_keys_and_old_hosts_follow(published: Workshop, clients: Clients, role: str) -> None:
    clients("old")
    done = rotate(published.repository, published.keyring, Change(role=role))
    assert done.draft.done
    assert len(done.made) == len(done.dropped) == (3 if role == "root" else 1)
    assert verify(published.repository, trusted=published.keyring.root).errors == []
    for cache in ("old", "new"):
        assert clients(cache).get_targetinfo(TARGET) is not None
    for key in done.made:
        assert key.stat().st_mode & 0o777 == 0o600
    publish(published.build("2"), published.repository, published.keyring)
    assert clients("old").get_targetinfo("edge/x86-64/stable/2/release.json") is not None
    assert not (published.repository / "drafts/root.json").exists()
    # What is built from now on starts from the new root, and hosts that were built so are served.
    assert clients("built", Keyring.load(published.keys).root).get_targetinfo(TARGET) is not None


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "stable"])
def test_a_key_that_was_dropped_signs_nothing_any_more(published: Workshop, clients: Clients, role: str) -> None:
    stem = f"channel-{role}" if role == "stable" else role
    stolen = load_private_key(published.keys / f"tuf/{stem}.pem")
    rotate(published.repository, published.keyring, Change(role=role))
    publish(published.build("2"), published.repository, published.keyring)
    roles = Store.open(published.repository).roles
    forged = roles.by_name(role)
    forged.version += 1
    names = {"timestamp": "timestamp.json"}
    name = names.get(role, f"{forged.version - 1}.{role}.json")
    (published.repository / "metadata" / name).write_bytes(sign(forged, [signer(stolen)]))
    with pytest.raises(RepositoryError):
        clients("any").get_targetinfo(TARGET)
    with pytest.raises(MetadataError):
        Store.open(published.repository)


def test_offline_root_keys_sign_one_after_the_other_elsewhere(published: Workshop, clients: Clients) -> None:
    safe = move_away(published, "root-1", "root-2", "root-3")
    before = published.files()
    new = published.folder / "root-4.pub"
    private = Ed25519PrivateKey.generate()
    new.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    change = Change(role="root", new=(new,), drop=(str(safe / "root-2.pem"),))
    done = rotate(published.repository, published.keyring, change)
    assert not done.draft.done
    assert [(lack.role, lack.count, len(lack.key_ids)) for lack in done.draft.lacking] == [
        ("root", 2, 3),
        ("root", 2, 3),
    ]
    draft = "drafts/root.json"
    assert {path: data for path, data in published.files().items() if path != draft} == before
    # One key signs the file alone, where nothing else is.
    carried = published.folder / "usb.json"
    shutil.copyfile(published.repository / draft, carried)
    assert len(sign_file(carried, [safe / "root-1.pem"])[1]) == 1
    assert sign_file(carried, [safe / "root-1.pem"])[1] == []
    (half,) = sign_pending(published.repository, None, [], [carried])
    assert {lack.count for lack in half.lacking} == {1}
    assert clients("between").get_targetinfo(TARGET) is not None
    assert current(published).version == 1
    # The second is brought to the publisher: enough for the old root and for the new one.
    (whole,) = sign_pending(published.repository, published.keyring, [safe / "root-3.pem"])
    assert whole.done
    root = current(published)
    assert root.version == 2
    assert public(private.public_key()).keyid in root.roles["root"].keyids
    assert len(root.roles["root"].keyids) == 3
    assert verify(published.repository, trusted=published.new_keys.root).errors == []
    assert clients("between").get_targetinfo(TARGET) is not None


def test_a_lost_key_alone_cannot_be_replaced_by_a_stolen_one(published: Workshop) -> None:
    safe = move_away(published, "root-1", "root-2", "root-3")
    rotate(published.repository, published.keyring, Change(role="root"))
    (draft,) = sign_pending(published.repository, published.keyring, [safe / "root-1.pem"])
    # All new keys and one of the old ones: the old threshold is not met.
    assert [(lack.count, lack.version) for lack in draft.lacking] == [(1, 1)]
    assert current(published).version == 1


def test_signatures_of_strangers_do_not_count(published: Workshop) -> None:
    move_away(published, "root-1", "root-2", "root-3")
    rotate(published.repository, published.keyring, Change(role="timestamp"))
    evil = [published.folder / f"evil-{number}.pem" for number in range(3)]
    for path in evil:
        write_private_key(path, Ed25519PrivateKey.generate())
    (draft,) = sign_pending(published.repository, published.keyring, evil)
    assert draft.lacking[0].count == 2
    carried = published.folder / "usb.json"
    shutil.copyfile(draft.path, carried)
    sign_file(carried, evil)
    (draft,) = sign_pending(published.repository, None, [], [carried])
    assert draft.lacking[0].count == 2
    root = load(carried.read_bytes(), Root)
    root.signed.version = 9
    carried.write_bytes(encode(root))
    with pytest.raises(HostctlError, match="another"):
        sign_pending(published.repository, None, [], [carried])


def test_a_new_online_key_waits_for_the_root_keys(published: Workshop, clients: Clients) -> None:
    safe = move_away(published, "root-1", "root-2", "root-3")
    done = rotate(published.repository, published.keyring, Change(role="timestamp"))
    assert not done.draft.done
    publish(published.build("2"), published.repository, published.keyring)  # by the present key, meanwhile
    clients("old")
    keys = [safe / "root-1.pem", safe / "root-2.pem"]
    (settled,) = sign_pending(published.repository, published.keyring, keys)
    assert settled.done
    assert (
        current(published).roles["timestamp"].keyids
        != load(published.new_keys.root, Root).signed.roles["timestamp"].keyids
    )
    assert clients("old").get_targetinfo(TARGET) is not None


def test_a_channel_s_key_waits_for_the_offline_key_of_targets(published: Workshop, clients: Clients) -> None:
    safe = move_away(published, "targets")
    done = rotate(published.repository, published.keyring, Change(role="stable"))
    assert [(lack.role, lack.count) for lack in done.draft.lacking] == [("targets", 1)]
    publish(published.build("2"), published.repository, published.keyring)
    carried = published.folder / "usb.json"
    shutil.copyfile(done.draft.path, carried)
    sign_file(carried, [safe / "targets.pem"])
    (settled,) = sign_pending(published.repository, published.keyring, [], [carried])
    assert settled.done
    assert clients().get_targetinfo("edge/x86-64/stable/2/release.json") is not None
    (published.keys / "tuf").joinpath(done.made[0].name).unlink()
    with pytest.raises(MissingKeyError, match="stable"):
        publish(published.build("3"), published.repository, published.keyring)


def test_a_new_channel_waits_for_the_offline_key_of_targets(published: Workshop, clients: Clients) -> None:
    safe = move_away(published, "targets")
    write_private_key(published.keys / "tuf/channel-canary.pem", Ed25519PrivateKey.generate())
    done = initialise(published.repository, published.keyring)
    assert (done.channels, done.added) == (("beta", "stable"), ("canary",))
    assert done.draft is not None
    assert not done.draft.done
    with pytest.raises(DraftError, match="waits for signatures"):
        initialise(published.repository, published.keyring)
    (settled,) = sign_pending(published.repository, published.keyring, [safe / "targets.pem"])
    assert settled.done
    publish(published.build("2", channel="canary"), published.repository, published.keyring)
    assert clients().get_targetinfo("edge/x86-64/canary/2/release.json") is not None


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "root", "stable"])
@pytest.mark.parametrize("count", range(1, 8))
def test_cut_off_anywhere_hosts_follow_and_signing_again_completes(
    published: Workshop, clients: Clients, monkeypatch: pytest.MonkeyPatch, role: str, count: int
) -> None:
    clients("old")
    move = move_away(published, "root-1", "root-2", "root-3", "targets")
    rotate(published.repository, published.keyring, Change(role=role))
    for path in move.iterdir():
        shutil.copyfile(path, published.keys / "tuf" / path.name)
    with monkeypatch.context() as patch:
        cut_after(patch, count)
        try:
            sign_pending(published.repository, published.keyring, [])
            finished = True
        except CutError:
            finished = False
    for cache in ("old", "fresh"):
        assert clients(cache).get_targetinfo(TARGET) is not None
    if not finished:
        (draft,) = sign_pending(published.repository, published.keyring, [])
        assert draft.done
    for cache in ("old", "fresh", "last"):
        assert clients(cache).get_targetinfo(TARGET) is not None
    assert verify(published.repository, trusted=published.keyring.root).errors == []
    assert not list((published.repository / "drafts").iterdir())


def test_one_change_at_a_time(published: Workshop) -> None:
    move_away(published, "root-1", "root-2")
    rotate(published.repository, published.keyring, Change(role="timestamp"))
    with pytest.raises(DraftError, match="waits for signatures"):
        rotate(published.repository, published.keyring, Change(role="snapshot"))
    done = rotate(published.repository, published.keyring, Change(role="snapshot"), discard=True)
    assert done.draft.lacking[0].count == 1


def test_a_draft_of_a_former_state_is_refused(published: Workshop) -> None:
    safe = move_away(published, "root-1", "root-2", "root-3")
    rotate(published.repository, published.keyring, Change(role="snapshot"))
    stale = (published.repository / "drafts/root.json").read_bytes()
    rotate(published.repository, published.keyring, Change(role="timestamp"), discard=True)
    sign_pending(published.repository, published.keyring, [safe / "root-1.pem", safe / "root-2.pem"])
    (published.repository / "drafts/root.json").write_bytes(stale)
    with pytest.raises(DraftError, match="version 2"):
        sign_pending(published.repository, published.keyring, [safe / "root-1.pem", safe / "root-2.pem"])


def test_what_cannot_be_is_refused_before_anything_is_written(published: Workshop) -> None:
    before = published.files()
    keys = sorted(path.name for path in (published.keys / "tuf").iterdir())
    wrong: list[tuple[Change, type[HostctlError]]] = [
        (Change(role="nothing"), NoChannelError),
        (Change(role="root", threshold=4), UsageError),
        (Change(role="root", threshold=0), UsageError),
        (Change(role="root", drop=("1234",)), UsageError),
        (Change(role="root", drop=("0" * 64,)), UsageError),
        (Change(role="root", new=(published.folder / "none.pem",)), KeyFileError),
        (Change(role="root", new=(published.keys / "tuf/root.json",)), KeyFileError),
        (Change(role="root", new=(published.keys / "tuf/root-1.pem",)), UsageError),
        (Change(role="root", new=(published.keys / "tuf/snapshot.pem",)), UsageError),
    ]
    for change, kind in wrong:
        with pytest.raises(kind):
            rotate(published.repository, published.keyring, change)
    assert published.files() == before
    assert sorted(path.name for path in (published.keys / "tuf").iterdir()) == keys
    with pytest.raises(DraftError, match="nothing waits"):
        sign_pending(published.repository, published.keyring, [])


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[" * 100_000, b'{"_type":"targets"', b" " * (2 << 20)],
    ids=["empty", "no role", "deep", "cut off", "blanks"],
)
def test_nonsense_for_a_draft(published: Workshop, data: bytes) -> None:
    path = published.folder / "draft.json"
    path.write_bytes(data)
    with pytest.raises((DraftError, MetadataError)):
        sign_file(path, [published.keys / "tuf/root-1.pem"])
    assert path.read_bytes() == data
