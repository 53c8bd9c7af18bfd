"""What stays in a store and what leaves it, also when a removal is cut off at any moment."""

import itertools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hostctl_lab.images import layout

from hostctl.config.values import ImageReference
from hostctl.image import details, lookup, retention
from hostctl.image.layers import MakeErofs
from hostctl.image.lookup import UnknownImageError
from hostctl.image.room import ImageStoreError
from hostctl.image.store import ImageStore, StoredImage

CHANGES = frozenset({"os.remove", "os.rename", "os.utime", "shutil.rmtree", "os.mkdir"})
NAMES = ("old", "new", "kept")


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """Return a store of three images, the first two of which share a layer, by age."""
    store = ImageStore(tmp_path / "store")
    for age, name in enumerate(NAMES):
        shared = b"kept" if name == "kept" else b"shared"
        digest = layout(tmp_path / name, shared, name.encode())
        store.add(tmp_path / name, digest, f"r.example/{name}:1", make=_plain)
        manifest = tmp_path / f"store/manifests/{digest.replace(':', '-')}.json"
        os.utime(manifest, (age * 1000, age * 1000))
    return tmp_path / "store"


def _plain(output: Path) -> tuple[str, ...]:
    """Return a command that keeps the tar as it is: what removes files does not look into them."""
    return ("sh", "-c", f"cat >{output}")


def by_name(root: Path) -> dict[str, StoredImage]:
    """Return the images of a store."""
    return {image.reference.removeprefix("r.example/").removesuffix(":1"): image for image in ImageStore(root).list()}


def test_the_longest_unused_go_first_and_shared_layers_stay(filled: Path) -> None:
    images = by_name(filled)
    limit = retention.used(filled) - 1
    removed = ImageStore(filled).collect({images["kept"].digest}, limit=limit)
    assert set(by_name(filled)) == {"new", "kept"}
    assert images["old"].layers[1] in removed
    assert images["new"].layers[0] == images["old"].layers[0]
    assert images["new"].layers[0].exists()
    assert {path.suffix for path in removed} == {".json", ".erofs", ".check", ".recipe"}
    assert ImageStore(filled).collect({images["kept"].digest}, limit=limit) == ()


def test_what_was_given_out_stays(filled: Path) -> None:
    store = ImageStore(filled, limit=1)
    assert store.find(ImageReference("r.example/old:1"))
    with pytest.raises(ImageStoreError, match="may take 1"):
        store.make_room(0)
    assert set(by_name(filled)) == {"old"}


def _files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def _cut(step: int, work: Callable[[], object]) -> bool:
    """Do the work in a process that is killed before its ``step``-th change of a file; tell whether it was."""
    child = os.fork()
    if child == 0:
        counter = itertools.count()

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if (event in CHANGES or opened) and next(counter) == step:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        work()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_a_removal_that_is_cut_off_anywhere_leaves_whole_images_and_is_completed(filled: Path, tmp_path: Path) -> None:
    images = by_name(filled)
    kept, before = images["kept"], _files(filled)
    ImageStore(filled).collect({kept.digest})
    after = _files(filled)
    for step in itertools.count():
        for name, data in before.items():
            (filled / name).write_bytes(data)
        cut = _cut(step, lambda: ImageStore(filled).collect({kept.digest}))
        store = ImageStore(filled)
        assert store.get(kept.digest) == kept
        for name, digest in store.names().items():
            assert store.get(digest), f"cut at {step}: {name} is half there"
        store.collect({kept.digest})
        assert _files(filled) == after
        if not cut:
            break
    assert step > 12


def test_an_import_that_is_cut_off_anywhere_is_made_whole_by_the_next(tmp_path: Path) -> None:
    digest = layout(tmp_path / "site", b"one", b"two")
    wanted = ImageStore(tmp_path / "whole").add(tmp_path / "site", digest, "r.example/site:1", make=_plain)
    for step in itertools.count():
        root = tmp_path / f"store-{step}"

        def work(root: Path = root) -> None:
            ImageStore(root).add(tmp_path / "site", digest, "r.example/site:1", make=_plain)

        cut = _cut(step, work)
        store = ImageStore(root)
        assert all(store.get(each) for each in store.names().values())
        store.clean()
        again = store.add(tmp_path / "site", digest, "r.example/site:1", make=_plain)
        assert (again.digest, again.bytes) == (wanted.digest, wanted.bytes)
        assert not details.damage(store, again)
        store.collect({digest})
        assert not list(root.rglob("*.tmp"))
        if not cut:
            break
    assert step > 12


def test_what_a_killed_pull_wrote_of_a_blob_goes_and_whole_blobs_stay(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "store")
    one, other = (store.incoming(f"sha256:{digit * 64}") for digit in "12")
    (one / "oci-put-blob123").write_bytes(b"torn")
    (one / "blobs").mkdir()
    (one / "blobs/whole").write_bytes(b"whole")
    (other / "oci-put-blob4").write_bytes(b"torn")
    store.collect()
    assert _files(tmp_path / "store") == {f"incoming/{one.name}/blobs/whole": b"whole"}


def test_images_are_found_by_name_and_by_the_beginning_of_their_ids(filled: Path) -> None:
    store = ImageStore(filled)
    old = by_name(filled)["old"]
    for text in ("r.example/old:1", old.digest, old.id, old.id[7:19], f"r.example/old@{old.digest}"):
        assert lookup.find(store, text).digest == old.digest
    for text in ("r.example/gone:1", f"r.example/gone@{old.digest}", "0" * 12, old.id[7:10]):
        with pytest.raises(UnknownImageError):
            lookup.find(store, text)


def test_names(filled: Path) -> None:
    store = ImageStore(filled)
    old = by_name(filled)["old"]
    store.name(old, "r.example/new:1")
    assert lookup.find(store, "r.example/new:1").digest == old.digest
    store.forget("r.example/new:1")
    with pytest.raises(ImageStoreError, match="there is no image"):
        store.forget("r.example/new:1")
    assert len(store.digests()) == len(NAMES)


def test_details_and_damage(filled: Path) -> None:
    store = ImageStore(filled)
    old = by_name(filled)["old"]
    known = details.details(store, old)
    assert (known.architecture, known.created) == ("amd64", "2026-01-02T03:04:05Z")
    assert [step.created_by for step in known.history] == ["COPY x", "COPY x"]
    assert details.damage(store, old) == ()
    data = bytearray(old.layers[1].read_bytes())
    data[600] ^= 1
    old.layers[1].unlink()
    old.layers[1].write_bytes(data)
    assert details.damage(store, old) == (f"{old.layers[1].stem}: it is damaged",)


def test_layers_of_a_release_are_made_without_records(tmp_path: Path, make: MakeErofs) -> None:
    digest = layout(tmp_path / "site", b"one")
    ImageStore(tmp_path / "store", protect=False).add(tmp_path / "site", digest, None, make=make)
    assert [path.suffix for path in (tmp_path / "store/layers").iterdir()] == [".erofs"]
