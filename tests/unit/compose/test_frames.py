"""Compressed segments that are remembered by their content."""

from pathlib import Path

from hostctl.compose.cache import Cache
from hostctl.compose.frames import cached
from hostctl.payload.pack import Files, library_compressor, pack_full

SIZE = 64 << 10


class Counting:
    """A real compressor that counts what it is given."""

    def __init__(self) -> None:
        self.count = 0
        self._compress = library_compressor(1)

    def __call__(self, sources: Path, frames: Path) -> None:
        self.count += len(list(sources.iterdir()))
        self._compress(sources, frames)


def files(folder: Path, root: bytes) -> Files:
    folder.mkdir()
    (folder / "root").write_bytes(root)
    (folder / "uki").write_bytes(b"kernel" * 100)
    return Files(root=folder / "root", uki=folder / "uki")


def test_only_segments_that_differ_are_compressed(tmp_path: Path) -> None:
    compressor = Counting()
    compress = cached(compressor, tmp_path / "frames", "zstd 1.5.7 -12")
    plain = bytes(SIZE) + b"a" * SIZE + b"b" * SIZE
    first = pack_full(files(tmp_path / "1", plain), tmp_path / "1", compress, size=SIZE)
    assert compressor.count == 4
    again = pack_full(files(tmp_path / "2", plain), tmp_path / "2", compress, size=SIZE)
    assert compressor.count == 4
    assert again.segments.read_bytes() == first.segments.read_bytes()
    assert again.index.read_bytes() == first.index.read_bytes()
    pack_full(files(tmp_path / "3", plain[:-1] + b"c"), tmp_path / "3", compress, size=SIZE)
    assert compressor.count == 5


def test_another_compressor_has_other_frames(tmp_path: Path) -> None:
    compressor = Counting()
    for number, identity in enumerate(("-12", "-19")):
        folder = tmp_path / str(number)
        pack_full(files(folder, b"x" * SIZE), folder, cached(compressor, tmp_path / "frames", identity), size=SIZE)
    assert compressor.count == 4


def test_unused_frames_go_with_the_rest_of_the_cache(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    compress = cached(library_compressor(1), cache.frames, "-1")
    pack_full(files(tmp_path / "1", b"x" * SIZE), tmp_path / "1", compress, size=SIZE)
    assert len(list(cache.frames.iterdir())) == 2
    assert cache.prune(now=0.0) == ()
    assert len(cache.prune(now=1e12)) == 2
    assert list(cache.frames.iterdir()) == []
