"""What is published is what python-tuf's client reads; what was cut off is completed; what is signed never changes."""

from __future__ import annotations

import json
import os
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from hostctl.errors import HostctlError, UsageError
from hostctl.repository.build import BuildError
from hostctl.repository.keyring import MissingKeyError, make_keys
from hostctl.repository.metadata import MetadataError
from hostctl.repository.offers import NoReleaseError, PublishedError, initialise, promote, withdraw
from hostctl.repository.publish import publish
from hostctl.repository.release import decode_offer, decode_release, decode_versions
from hostctl.repository.roles import NoChannelError
from hostctl.repository.rollout import Rollout
from hostctl.repository.store import Named, RepositoryBusyError, Store, StoredFileError, locked
from hostctl.repository.stored import NoRepositoryError
from hostctl.repository.terms import Terms

from .conftest import NOW, Clients, Workshop


def fetched(updater: object, target: str) -> bytes:
    info = updater.get_targetinfo(target)  # type: ignore[attr-defined]
    assert info is not None
    return Path(updater.download_target(info)).read_bytes()  # type: ignore[attr-defined]


def versions(updater: object, channel: str = "stable") -> tuple[str, ...]:
    return decode_versions(fetched(updater, f"edge/x86-64/{channel}/releases.json"))


def test_a_published_release_is_read_by_python_tuf(workshop: Workshop, clients: Clients) -> None:
    rollout = Rollout(start=NOW.replace(microsecond=0), hours=48, percent=50)
    done = publish(
        workshop.build("2"), workshop.repository, workshop.keyring, wanted=Terms(minimum="1", rollout=rollout)
    )
    client = clients()
    assert versions(client) == ("2",)
    release = decode_release(fetched(client, "edge/x86-64/stable/2/release.json"))
    assert release == done.release
    info = client.get_targetinfo("edge/x86-64/stable/2/release.json")
    assert info is not None
    offer = decode_offer(info.custom)
    assert (offer.version, offer.minimum, offer.rollout) == ("2", "1", rollout)
    for payload in (release.index, release.segments, release.signature):
        assert len((workshop.repository / payload.path).read_bytes()) == payload.bytes
    assert fetched(client, "edge/x86-64/stable/2/deltas.json") == b'{"deltas":[],"format":2}'


def test_targets_signs_only_delegations_and_is_not_needed_to_publish(workshop: Workshop) -> None:
    initialise(workshop.repository, workshop.keyring)
    for name in ("root-1", "root-2", "root-3", "targets", "channel-beta"):
        (workshop.keys / f"tuf/{name}.pem").unlink()
    publish(workshop.build("2"), workshop.repository, workshop.keyring)
    roles = Store.open(workshop.repository).roles
    assert (roles.targets.version, roles.targets.targets) == (1, {})
    assert roles.channels["stable"].version == 2
    with pytest.raises(MissingKeyError, match="beta"):
        publish(workshop.build("3"), workshop.repository, workshop.keyring, channel="beta")


def test_a_key_of_a_channel_signs_no_other(workshop: Workshop) -> None:
    initialise(workshop.repository, workshop.keyring)
    shutil.copyfile(workshop.keys / "tuf/channel-beta.pem", workshop.keys / "tuf/channel-stable.pem")
    with pytest.raises(MissingKeyError):
        publish(workshop.build("2"), workshop.repository, workshop.keyring)


def test_what_is_missing_is_refused_before_anything_is_written(workshop: Workshop) -> None:
    publish(workshop.build("2"), workshop.repository, workshop.keyring)
    before = workshop.files()
    (workshop.keys / "tuf/timestamp.pem").unlink()
    with pytest.raises(MissingKeyError, match="timestamp"):
        publish(workshop.build("3"), workshop.repository, workshop.keyring)
    after = workshop.files()
    assert {path for path in after if path.startswith("metadata/")} == {
        path for path in before if path.startswith("metadata/")
    }


def test_the_same_build_again_renews_and_keeps_the_offer(workshop: Workshop) -> None:
    build = workshop.build("2")
    publish(build, workshop.repository, workshop.keyring, wanted=Terms(minimum="1"))
    again = publish(build, workshop.repository, workshop.keyring)
    assert (again.new, again.offer.minimum) == (False, "1")
    assert Store.open(workshop.repository).roles.timestamp.version == 2
    lifted = publish(build, workshop.repository, workshop.keyring, wanted=Terms(minimum="none"))
    assert lifted.offer.minimum is None


def test_a_version_never_changes_in_any_channel(workshop: Workshop) -> None:
    publish(workshop.build("2"), workshop.repository, workshop.keyring)
    for channel in ("stable", "beta"):
        with pytest.raises(PublishedError, match="other content"):
            publish(workshop.build("2", change=1 + (channel == "beta")), workshop.repository, workshop.keyring)


def test_versions_are_listed_in_their_order(workshop: Workshop, clients: Clients) -> None:
    for version in ("2", "10", "9", "10~rc1"):
        publish(workshop.build(version), workshop.repository, workshop.keyring)
    assert versions(clients()) == ("2", "9", "10~rc1", "10")


def test_an_altered_or_foreign_build_is_not_signed(workshop: Workshop) -> None:
    build = workshop.build("2")
    for kind in ("root", "uki", "verity-sig"):
        path = build / f"{kind}.file"
        whole = path.read_bytes()
        path.write_bytes(b"evil" + whole[4:])
        with pytest.raises(BuildError, match="manifest"):
            publish(build, workshop.repository, workshop.keyring)
        path.write_bytes(whole)
    assert not workshop.repository.exists()


def test_a_payload_that_makes_something_else_is_not_signed(workshop: Workshop) -> None:
    """A build may come with its payload; it is applied before it is believed."""
    from hostctl.payload.pack import Files, library_compressor, pack_full  # noqa: PLC0415
    from hostctl.repository.build import described  # noqa: PLC0415

    build = workshop.build("2")
    wrong = workshop.folder / "wrong"
    wrong.write_bytes(bytes(1 << 16))
    packed = pack_full(Files(root=wrong, uki=build / "uki.file"), build, library_compressor(1))
    manifest = json.loads((build / "manifest.json").read_text())
    for path in (packed.index, packed.segments):
        payload = described(path).payload
        entry = {"name": path.name, "path": path.name, "bytes": payload.bytes, "sha256": payload.sha256}
        manifest["artifacts"].append(entry)
    (build / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BuildError, match="another root"):
        publish(build, workshop.repository, workshop.keyring)


@pytest.mark.parametrize(
    ("key", "value"), [("root_hash", "x"), ("version", "../2"), ("architecture", "arm64"), ("name", "a/b")]
)
def test_what_hosts_would_refuse_is_not_signed(workshop: Workshop, key: str, value: str) -> None:
    build = workshop.build("2")
    manifest = json.loads((build / "manifest.json").read_text())
    (build / "manifest.json").write_text(json.dumps({**manifest, key: value}))
    with pytest.raises(HostctlError):
        publish(build, workshop.repository, workshop.keyring)
    assert not workshop.repository.exists()


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"\xff", b"[" * 60_000, b'{"artifacts": 1}'])
def test_nonsense_for_a_manifest(workshop: Workshop, data: bytes) -> None:
    build = workshop.build("2")
    (build / "manifest.json").write_bytes(data)
    with pytest.raises(BuildError, match="does not hold a build"):
        publish(build, workshop.repository, workshop.keyring)


def test_a_manifest_cannot_name_files_outside(workshop: Workshop) -> None:
    build = workshop.build("2")
    text = (build / "manifest.json").read_text().replace("uki.file", "../../etc/passwd")
    (build / "manifest.json").write_text(text)
    with pytest.raises(BuildError, match="outside"):
        publish(build, workshop.repository, workshop.keyring)


def test_foreign_keys_cannot_publish(workshop: Workshop) -> None:
    publish(workshop.build("2"), workshop.repository, workshop.keyring)
    before = workshop.files()
    with pytest.raises(MetadataError, match="other keys"):
        publish(workshop.build("3"), workshop.repository, make_keys(NOW).keyring)
    assert workshop.files() == before


def test_one_publisher_at_a_time(workshop: Workshop) -> None:
    initialise(workshop.repository, workshop.keyring)
    with locked(workshop.repository), pytest.raises(RepositoryBusyError) as caught:
        publish(workshop.build("2"), workshop.repository, workshop.keyring)
    assert caught.value.exit_code == 75


def test_unknown_channel_and_folder_are_named(workshop: Workshop) -> None:
    with pytest.raises(NoChannelError, match="canary") as caught:
        publish(workshop.build("2"), workshop.repository, workshop.keyring, channel="canary")
    assert "beta, stable" in caught.value.details
    with pytest.raises(NoRepositoryError, match="no repository"):
        promote(workshop.folder / "nowhere", workshop.keyring, "2", "beta")


def test_init_adds_channels_whose_keys_are_new(workshop: Workshop, clients: Clients) -> None:
    first = initialise(workshop.repository, workshop.keyring)
    assert (first.channels, first.added) == (("beta", "stable"), ("beta", "stable"))
    assert initialise(workshop.repository, workshop.keyring).added == ()
    old = clients()
    shutil.copyfile(workshop.keys / "tuf/channel-beta.pem", workshop.keys / "tuf/channel-canary.pem")
    assert initialise(workshop.repository, workshop.keyring).added == ("canary",)
    publish(workshop.build("2", channel="canary"), workshop.repository, workshop.keyring)
    assert old.get_targetinfo("edge/x86-64/canary/releases.json") is None
    assert versions(clients(), "canary") == ("2",)


class CutError(Exception):
    """The power is gone."""


def cut_after(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Let the power go at the ``count``-th rename, whatever is renamed."""
    real, seen = os.replace, iter(range(count))

    def replace(source: Path, target: Path) -> None:
        if next(seen, None) is None:
            raise CutError
        real(source, target)

    monkeypatch.setattr(Path, "replace", replace)


@pytest.mark.parametrize("count", range(12))
def test_cut_off_anywhere_hosts_see_a_whole_state_and_a_repeat_completes(
    workshop: Workshop, clients: Clients, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    publish(workshop.build("1"), workshop.repository, workshop.keyring)
    build = workshop.build("2")
    with monkeypatch.context() as patch:
        cut_after(patch, count)
        try:
            publish(build, workshop.repository, workshop.keyring)
            finished = True
        except CutError:
            finished = False
    seen = versions(clients("before"))
    assert seen == (("1", "2") if finished else ("1",))
    publish(build, workshop.repository, workshop.keyring)
    assert versions(clients("before")) == ("1", "2")
    assert versions(clients("after")) == ("1", "2")
    assert not [path for path in workshop.files() if path.endswith(".tmp")]


@pytest.mark.parametrize("count", range(8))
def test_a_first_publication_that_was_cut_off_is_completed(
    workshop: Workshop, clients: Clients, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    build = workshop.build("1")
    with monkeypatch.context() as patch:
        cut_after(patch, count)
        with pytest.raises(CutError):
            publish(build, workshop.repository, workshop.keyring)
    publish(build, workshop.repository, workshop.keyring)
    assert versions(clients()) == ("1",)


def test_promote_offers_the_same_files_elsewhere(workshop: Workshop, clients: Clients) -> None:
    publish(workshop.build("2", channel="beta"), workshop.repository, workshop.keyring, wanted=Terms(minimum="1"))
    payloads = {path for path in workshop.files() if path.startswith("payloads/")}
    rollout = Rollout(start=NOW.replace(microsecond=0), hours=0, percent=10)
    done = promote(workshop.repository, workshop.keyring, "2", "stable", wanted=Terms(rollout=rollout))
    assert (done.offer.minimum, done.offer.rollout, done.new) == ("1", rollout, True)
    assert {path for path in workshop.files() if path.startswith("payloads/")} == payloads
    client = clients()
    both = [fetched(client, f"edge/x86-64/{channel}/2/release.json") for channel in ("beta", "stable")]
    assert both[0] == both[1]
    everybody = Terms(rollout=Rollout(start=NOW, hours=0, percent=100), minimum="none")
    lifted = promote(workshop.repository, workshop.keyring, "2", "stable", wanted=everybody)
    assert (lifted.offer.minimum, lifted.offer.rollout, lifted.new) == (None, None, False)
    beta = Store.open(workshop.repository).offer(Named(channel="beta", name="edge", version="2"))
    assert beta is not None
    assert beta.minimum == "1"


def test_promote_names_what_it_cannot_find(workshop: Workshop) -> None:
    publish(workshop.build("2", channel="beta"), workshop.repository, workshop.keyring)
    publish(workshop.build("2", name="core", channel="beta"), workshop.repository, workshop.keyring)
    with pytest.raises(NoReleaseError, match="no release 3"):
        promote(workshop.repository, workshop.keyring, "3", "stable")
    with pytest.raises(NoReleaseError, match="several images") as caught:
        promote(workshop.repository, workshop.keyring, "2", "stable")
    assert "core, edge" in caught.value.details
    promote(workshop.repository, workshop.keyring, "2", "stable", name="core")
    assert Store.open(workshop.repository).versions("stable", "core") == ("2",)


def test_a_withdrawn_release_is_offered_no_more(workshop: Workshop, clients: Clients) -> None:
    for version in ("1", "2"):
        publish(workshop.build(version), workshop.repository, workshop.keyring)
    promote(workshop.repository, workshop.keyring, "2", "beta")
    clients()
    withdraw(workshop.repository, workshop.keyring, "2", "stable")
    client = clients()
    assert versions(client) == ("1",)
    assert client.get_targetinfo("edge/x86-64/stable/2/release.json") is None
    assert versions(client, "beta") == ("2",)
    with pytest.raises(NoReleaseError, match="stable has no release 2"):
        withdraw(workshop.repository, workshop.keyring, "2", "stable")


def test_a_minimum_above_the_release_has_no_meaning(workshop: Workshop) -> None:
    with pytest.raises(UsageError, match="from 3"):
        publish(workshop.build("2"), workshop.repository, workshop.keyring, wanted=Terms(minimum="3"))


def test_lives_are_short_for_online_keys_and_long_for_the_safe(workshop: Workshop) -> None:
    publish(workshop.build("2"), workshop.repository, workshop.keyring, now=NOW)
    roles = Store.open(workshop.repository).roles
    lives = [
        role.expires - NOW
        for role in (roles.timestamp, roles.snapshot, roles.channels["stable"], roles.targets, roles.root)
    ]
    assert lives == sorted(lives)
    assert timedelta(days=7) <= lives[0] <= timedelta(days=31)
    assert lives[-1] > timedelta(days=1000)


def test_altered_files_are_noticed_before_they_are_signed_again(workshop: Workshop) -> None:
    publish(workshop.build("2"), workshop.repository, workshop.keyring)
    path = next(workshop.repository.glob("targets/edge/x86-64/stable/*.releases.json"))
    path.write_bytes(b'{"format":2,"versions":["1"]}')
    with pytest.raises(StoredFileError, match=r"releases\.json"):
        publish(workshop.build("3"), workshop.repository, workshop.keyring)
