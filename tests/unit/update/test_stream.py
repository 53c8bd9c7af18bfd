from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from hostctl.update.slot import PartitionError, write_padded
from hostctl.update.stream import StreamError, unpack


def quiet(done: int) -> None:
    del done


@pytest.fixture
def partition(tmp_path: Path) -> Path:
    path = tmp_path / "part"
    path.write_bytes(b"\xff" * (4 << 20))
    return path


def test_pieces_of_any_length(partition: Path) -> None:
    content = os.urandom(3 << 20)
    packed = zstandard.compress(content)
    seen: list[int] = []
    unpack(iter([packed[at : at + 777] for at in range(0, len(packed), 777)]), partition, len(content), seen.append)
    assert partition.read_bytes() == content + b"\xff" * (1 << 20)
    assert seen[-1] == len(packed)


def test_bomb_stops_at_the_size(partition: Path) -> None:
    packed = zstandard.compress(bytes(256 << 20))
    with pytest.raises(StreamError, match="larger"):
        unpack(iter([packed]), partition, 1 << 20, quiet)
    assert partition.stat().st_size == 4 << 20


def test_huge_window_is_refused(partition: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=28)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    packed = packer.compress(b"x" * 4096) + packer.flush()
    with pytest.raises(StreamError, match="broken"):
        unpack(iter([packed]), partition, 4096, quiet)


@pytest.mark.parametrize("data", [b"", b"not zstd at all", zstandard.compress(b"x" * 4096)[:-3]])
def test_broken_stream(partition: Path, data: bytes) -> None:
    with pytest.raises(StreamError):
        unpack(iter([data]), partition, 4096, quiet)


def test_source_is_read_to_its_end(partition: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield zstandard.compress(b"x" * 4096)
        raise ValueError("hash")

    with pytest.raises(ValueError, match="hash"):
        unpack(chunks(), partition, 4096, quiet)


def test_device_must_exist(tmp_path: Path) -> None:
    with pytest.raises(PartitionError):
        unpack(iter([zstandard.compress(b"x")]), tmp_path / "none", 1, quiet)
    assert not list(tmp_path.iterdir())


def test_padding(partition: Path) -> None:
    write_padded(b"{}", partition, 4096)
    assert partition.read_bytes()[:4097] == b"{}" + bytes(4094) + b"\xff"
    with pytest.raises(PartitionError, match="fit"):
        write_padded(bytes(4097), partition, 4096)
