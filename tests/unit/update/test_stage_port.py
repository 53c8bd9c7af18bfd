"""The port with a pseudo terminal in the virtio device's place: both are character devices."""

from __future__ import annotations

import os
import threading
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostctl.update.stage_port import reach
from hostctl.update.stages import EDGES, Stage


@pytest.fixture
def terminal() -> Iterator[tuple[int, Path]]:
    """Return the harness's end, and the device that the machine sees."""
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    yield ours, Path(os.ttyname(theirs))
    os.close(ours)
    os.close(theirs)


def test_the_line_is_written_and_the_answer_awaited(terminal: tuple[int, Path]) -> None:
    harness, port = terminal
    passed = threading.Event()

    def work() -> None:
        reach(Stage.ROOT, "middle", port)
        passed.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert os.read(harness, 100) == b"root middle\n"
    assert not passed.is_set()
    os.write(harness, b".")
    thread.join(10)
    assert passed.is_set()


def test_nothing_happens_without_a_character_device(tmp_path: Path) -> None:
    reach(Stage.COMMIT, "after", tmp_path / "none")
    (tmp_path / "file").write_bytes(b"")
    reach(Stage.COMMIT, "after", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b""


def test_every_stage_has_its_edges() -> None:
    assert tuple(EDGES) == tuple(Stage)
    assert EDGES[Stage.ROOT] == ("before", "first", "middle", "last", "after")
    with pytest.raises(ValueError, match="no edge"):
        reach(Stage.FLUSH, "middle")
