"""Everything that is wrong in a repository is found in one run, and named; a whole one is said to be whole."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import Targets

from hostctl.payload.delta import make_delta
from hostctl.payload.pack import Files
from hostctl.repository.build import described
from hostctl.repository.keyring import make_keys
from hostctl.repository.offers import promote
from hostctl.repository.publish import publish
from hostctl.repository.release import Delta, Release, encode_deltas, encode_release
from hostctl.repository.root_hash import root_hash
from hostctl.repository.rotate import Change, rotate
from hostctl.repository.stats import stats
from hostctl.repository.store import Named, Store
from hostctl.repository.stored import NoRepositoryError
from hostctl.repository.verify import verify
from hostctl.run import run

from .conftest import NOW, Workshop


@pytest.fixture
def whole(workshop: Workshop) -> Workshop:
    for version in ("1", "2"):
        publish(workshop.build(version), workshop.repository, workshop.keyring)
    promote(workshop.repository, workshop.keyring, "2", "beta")
    return workshop


def release(workshop: Workshop, version: str = "2") -> Release:
    found = Store.open(workshop.repository).release(Named(channel="stable", name="edge", version=version))
    assert found is not None
    return found


def test_a_whole_repository(whole: Workshop) -> None:
    found = verify(whole.repository, trusted=whole.new_keys.root)
    assert (found.errors, found.warnings, found.releases) == ([], [], 3)
    # Payloads are read once, whichever channels have them; timestamp and roots are checked by their signatures.
    read = {path: data for path, data in whole.files().items() if path.startswith("payloads/")}
    assert len(read) == 6
    assert found.bytes > sum(map(len, read.values()))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


@pytest.mark.parametrize("harm", [flip, cut, grow, Path.unlink])
@pytest.mark.parametrize("kind", ["index", "segments", "signature"])
def test_a_payload_that_is_not_what_was_signed(whole: Workshop, kind: str, harm: Callable[[Path], None]) -> None:
    harm(whole.repository / getattr(release(whole), kind).path)
    (found,) = verify(whole.repository).errors
    assert found.file == getattr(release(whole), kind).path


@pytest.mark.parametrize("harm", [flip, cut, grow, Path.unlink])
@pytest.mark.parametrize("name", ["releases.json", "2/*.release.json", "2/*.deltas.json"])
def test_a_target_that_is_not_what_was_signed(whole: Workshop, name: str, harm: Callable[[Path], None]) -> None:
    pattern = name if "/" in name else f"*.{name}"
    for path in (whole.repository / "targets/edge/x86-64/stable").glob(pattern):
        harm(path)
    errors = verify(whole.repository).errors
    assert errors
    assert all("edge/x86-64/stable" in error.file or "channel stable" in error.file for error in errors)


@pytest.mark.parametrize("harm", [flip, cut, Path.unlink])
@pytest.mark.parametrize("name", ["timestamp.json", "3.snapshot.json", "1.targets.json", "2.stable.json"])
def test_metadata_that_are_broken(whole: Workshop, name: str, harm: Callable[[Path], None]) -> None:
    harm(whole.repository / "metadata" / name)
    assert verify(whole.repository).errors


def test_metadata_that_another_time_had(whole: Workshop) -> None:
    base = whole.repository / "metadata"
    (base / "3.snapshot.json").write_bytes((base / "2.snapshot.json").read_bytes())
    assert {error.file for error in verify(whole.repository).errors} >= {"metadata/3.snapshot.json"}


def test_all_that_is_wrong_is_found_at_once(whole: Workshop) -> None:
    for version in ("1", "2"):
        flip(whole.repository / release(whole, version).segments.path)
        (whole.repository / release(whole, version).index.path).unlink()
    assert len(verify(whole.repository).errors) == 4


@pytest.mark.parametrize(
    ("days", "errors", "warnings"),
    [(0, 0, 0), (12, 0, 1), (15, 1, 0), (61, 2, 0), (366, 4, 0), (800, 5, 0), (1900, 6, 0)],
)
def test_what_expires_is_said_before_and_after(whole: Workshop, days: int, errors: int, warnings: int) -> None:
    found = verify(whole.repository, now=NOW + timedelta(days=days))
    assert (len(found.errors), len(found.warnings)) == (errors, warnings)


def resign(workshop: Workshop, edit: Callable[[Targets], None]) -> None:
    """Sign a channel anew with what ``edit`` makes of it: its signer means harm, or errs."""
    store = Store.open(workshop.repository)
    edit(store.channel("stable"))
    store.touch("stable")
    store.commit(workshop.keyring, NOW)


def test_signed_nonsense_is_named(whole: Workshop) -> None:
    def edit(targets: Targets) -> None:
        target = targets.targets["edge/x86-64/stable/2/release.json"]
        target.unrecognized_fields["custom"]["version"] = "3"
        del targets.targets["edge/x86-64/stable/1/release.json"]

    resign(whole, edit)
    problems = [error.problem for error in verify(whole.repository).errors]
    assert len(problems) == 2
    assert any("offers edge_3" in problem for problem in problems)
    assert any("differ: 1" in problem for problem in problems)


def test_an_index_that_does_not_fit_its_segments_is_named(whole: Workshop) -> None:
    path = next((whole.repository / "targets/edge/x86-64/stable/2").glob("*.release.json"))
    document = json.loads(path.read_bytes())
    document["segments"]["bytes"] += 1
    store = Store.open(whole.repository)
    offer = store.offer(Named(channel="stable", name="edge", version="2"))
    store.put("stable", "edge/x86-64/stable/2/release.json", json.dumps(document).encode(), offer)
    store.commit(whole.keyring, NOW)
    problems = {error.problem for error in verify(whole.repository).errors}
    assert any("stored bytes, not" in problem for problem in problems)


def test_other_keys_and_missing_roots_are_named(whole: Workshop) -> None:
    other = make_keys(NOW).root
    assert "do not trust" in verify(whole.repository, trusted=other).errors[0].problem
    for _ in range(2):
        rotate(whole.repository, whole.keyring, Change(role="snapshot"))
    assert verify(whole.repository, trusted=whole.new_keys.root).errors == []
    second = whole.repository / "metadata/2.root.json"
    second.unlink()
    assert verify(whole.repository).errors


def test_a_root_that_only_itself_trusts_is_named(whole: Workshop) -> None:
    evil = make_keys(NOW)
    data = json.loads(evil.root)
    data["signed"]["version"] = 2
    (whole.repository / "metadata/2.root.json").write_text(json.dumps(data))
    (error,) = verify(whole.repository).errors
    assert "root" in error.problem


def test_a_draft_that_waits_is_a_warning(whole: Workshop) -> None:
    (whole.keys / "tuf/targets.pem").unlink()
    rotate(whole.repository, whole.keyring, Change(role="stable"))
    found = verify(whole.repository)
    assert found.errors == []
    assert [warning.file for warning in found.warnings] == ["drafts/targets.json"]


def test_no_repository(tmp_path: Path) -> None:
    with pytest.raises(NoRepositoryError):
        verify(tmp_path)


def test_stats_are_what_hosts_fetch(whole: Workshop) -> None:
    found = stats(whole.repository)
    assert [(one.channel, one.version) for one in found.releases] == [
        ("beta", "2"),
        ("stable", "1"),
        ("stable", "2"),
    ]
    two = release(whole)
    full = two.index.bytes + two.segments.bytes + two.signature.bytes
    assert {one.full for one in found.releases if one.version == "2"} == {full}
    (fetch,) = found.fetches
    assert (fetch.running, fetch.newest, fetch.path, fetch.bytes) == ("1", "2", "full", full)
    stored = [data for path, data in whole.files().items() if path.startswith("payloads/")]
    assert (found.payload_bytes, found.payload_files) == (sum(map(len, stored)), 6)


def with_delta(workshop: Workshop) -> tuple[Path, Path]:
    """Publish 1, and 2 with a delta from 1; return their builds."""
    old, new = workshop.build("1"), workshop.build("2")
    publish(old, workshop.repository, workshop.keyring)
    publish(new, workshop.repository, workshop.keyring, delta_from=["1"])
    return old, new


def built(folder: Path) -> Files:
    return Files(root=folder / "root.file", uki=folder / "uki.file")


def offer_delta(workshop: Workshop, old: Path, made: Path) -> str:
    """Offer, signed, a delta of which all is right but what it makes; return the path of its index."""
    folder = workshop.folder / "other"
    folder.mkdir()
    packed = make_delta(built(old), built(made), folder)
    index, segments = described(packed.index), described(packed.segments)
    before = release(workshop, "1")
    delta = Delta(
        from_version="1",
        from_root_hash=before.root_hash,
        from_uki_sha256=before.uki_sha256,
        index=index.payload,
        segments=segments.payload,
    )
    store = Store.open(workshop.repository)
    for one in (index, segments):
        store.put_payload(one.payload, one.path)
    store.put("stable", "edge/x86-64/stable/2/deltas.json", encode_deltas([delta]))
    store.commit(workshop.keyring, NOW)
    return index.payload.path


def test_payloads_that_make_their_releases(workshop: Workshop) -> None:
    with_delta(workshop)
    promote(workshop.repository, workshop.keyring, "2", "beta")
    found = verify(workshop.repository, apply=True)
    assert (found.errors, found.warnings, found.applied) == ([], [], 3)
    assert verify(workshop.repository).applied == 0


def test_a_delta_that_makes_another_root_is_named(workshop: Workshop) -> None:
    old, _ = with_delta(workshop)
    path = offer_delta(workshop, old, workshop.build("2", change=1))
    assert verify(workshop.repository).errors == []
    (error,) = verify(workshop.repository, apply=True).errors
    assert (error.file, error.problem) == (path, "the delta does not make the new root")


def test_a_delta_that_starts_from_another_root_is_named(workshop: Workshop) -> None:
    _, new = with_delta(workshop)
    path = offer_delta(workshop, workshop.build("1", change=1), new)
    assert verify(workshop.repository).errors == []
    (error,) = verify(workshop.repository, apply=True).errors
    assert error.file == path
    assert "came out wrong" in error.problem or "cannot be made" in error.problem


@pytest.mark.parametrize("what", ["root", "boot image"])
def test_a_full_payload_that_makes_something_else_is_named(workshop: Workshop, what: str) -> None:
    publish(workshop.build("2"), workshop.repository, workshop.keyring)
    right = release(workshop)
    if what == "root":
        wrong = dataclasses.replace(right, root_hash="0" * 64)
    else:
        wrong = dataclasses.replace(right, uki_sha256="0" * 64)
    store = Store.open(workshop.repository)
    offer = store.offer(Named(channel="stable", name="edge", version="2"))
    store.put("stable", "edge/x86-64/stable/2/release.json", encode_release(wrong), offer)
    store.commit(workshop.keyring, NOW)
    assert verify(workshop.repository).errors == []
    (error,) = verify(workshop.repository, apply=True).errors
    assert (error.file, error.problem) == (wrong.index.path, f"makes another {what} than edge_2 has")


def test_a_delta_from_a_release_that_is_gone_is_not_applied(workshop: Workshop) -> None:
    old = workshop.build("1")
    publish(workshop.build("2"), workshop.repository, workshop.keyring, delta_from=[str(old)])
    found = verify(workshop.repository, apply=True)
    assert (found.errors, found.applied) == ([], 1)
    assert "starts from 1, which is not here" in found.warnings[0].problem


@pytest.mark.parametrize("blocks", [1, 2, 127, 128, 129, 16_385])
def test_the_root_hash_is_that_of_veritysetup(tmp_path: Path, blocks: int) -> None:
    data, tree = tmp_path / "data", tmp_path / "tree"
    data.write_bytes(b"".join(number.to_bytes(4, "little") * 1024 for number in range(blocks)))
    words: list[str | Path] = ["veritysetup", "format", f"--salt={'cd' * 32}", data, tree]
    assert root_hash(data, bytes.fromhex("cd" * 32)) in run(words, timeout=60).text
