"""What the process says and how it ends when nobody reads what it prints."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [("--help",), ("--version",), ("config", "--help"), ("config", "schema", "host")])
def test_a_reader_that_left_is_told_by_the_exit_code_alone(words: tuple[str, ...], unbuffered: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "hostctl", *words],
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            timeout=60,
            check=False,
        )
    finally:
        os.close(writing)
    assert done.stderr == b""
    # argparse takes no notice when it cannot write help at once.
    assert done.returncode in ((0, 1) if words[-1] == "--help" else (1,))


def test_a_standard_output_that_is_closed_is_no_error() -> None:
    words = ["/bin/sh", "-c", 'exec "$0" -m hostctl --version >&-', sys.executable]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
