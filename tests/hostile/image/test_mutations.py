"""Mutated layers: each is refused with an error of ours, or becomes a layer that stays within its root.

``HOSTCTL_MUTATED_LAYERS`` says how many are tried, 1500 by default; 100000 take two minutes on a busy machine.
A stream that fails is made again by its seed: ``mutations.mutated(SEED)``.
"""

import gzip
import io
import os
import tarfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from hostctl.image.layers import convert
from hostctl.image.oci import Descriptor
from hostctl.image.tarstream import ID_LIMIT, MOUNT_POINTS, LayerError, rewrite
from tests.hostile.image.mutations import mutated

COUNT = int(os.environ.get("HOSTCTL_MUTATED_LAYERS", "1500"))
IMPORTED = 20
"""One in so many also goes through the whole importer."""
ALLOWED = frozenset({tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE})


def members(data: bytes) -> Iterator[tarfile.TarInfo]:
    """Return the members of a layer as another program reads them."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:", errors="surrogateescape") as tar:
        yield from tar


def check(data: bytes) -> None:
    """Look that nothing of a layer is outside its root, or below what is no folder."""
    kinds: dict[str, bytes] = {}
    for member in members(data):
        parts = member.name.split("/")
        assert not member.name.startswith("/")
        assert ".." not in parts
        assert member.type in ALLOWED
        assert 0 <= member.uid < ID_LIMIT > member.gid >= 0
        assert not set(member.pax_headers) - {"path", "linkpath", "hdrcharset"}
        assert member.name not in MOUNT_POINTS or member.isdir()
        for depth in range(1, len(parts)):
            assert kinds.get("/".join(parts[:depth]), tarfile.DIRTYPE) == tarfile.DIRTYPE
        if member.islnk():
            assert kinds[member.linkname] != tarfile.DIRTYPE
        kinds[member.name] = member.type


def test_mutated_layers_are_refused_or_harmless() -> None:
    taken = refused = 0
    for seed in range(COUNT):
        out = io.BytesIO()
        try:
            rewrite(io.BytesIO(mutated(seed)), out.write)
        except LayerError:
            refused += 1
            continue
        try:
            check(out.getvalue())
        except (AssertionError, tarfile.TarError, KeyError) as error:
            raise AssertionError(f"seed {seed}") from error
        taken += 1
    assert taken > COUNT // 20, "hardly anything gets so far that it could do harm"
    assert refused > COUNT // 20


def test_mutated_blobs_leave_nothing_in_the_store_but_a_whole_layer(tmp_path: Path) -> None:
    """Through decompression, digests and files; what mkfs.erofs would read is kept as it is."""
    store = tmp_path / "store"
    store.mkdir()
    for seed in range(0, COUNT, IMPORTED):
        data = mutated(seed)
        blob = gzip.compress(data, 1)
        if seed % (3 * IMPORTED) == 0:
            blob = blob[:-9]
        (tmp_path / "blob").write_bytes(blob)
        layer = Descriptor(
            media_type="application/vnd.oci.image.layer.v1.tar+gzip",
            digest=f"sha256:{sha256(blob).hexdigest()}",
            size=len(blob),
        )
        target = store / "layer.erofs"
        try:
            diff_id = f"sha256:{sha256(data).hexdigest()}"
            convert(tmp_path / "blob", layer, diff_id, target, make=lambda path: ("dd", "status=none", f"of={path}"))
        except LayerError:
            assert list(store.iterdir()) == [], f"seed {seed}"
        else:
            check(target.read_bytes())
            assert {path.name for path in store.iterdir()} == {"layer.erofs", "layer.check", "layer.recipe"}
            for path in store.iterdir():
                path.unlink()
        assert {path.name for path in tmp_path.iterdir()} == {"store", "blob"}
