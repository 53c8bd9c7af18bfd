"""A Ctrl-C ends a verb at once, whatever its threads wait for."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 30.0  # in which an interrupted program must have ended, on a machine that has other work as well
FRAME = """\
import argparse, os, signal, sys, threading
from pathlib import Path

def wait(*words):
    print("ready", flush=True)
    threading.Event().wait()

def run():
{body}

try:
    run()
except KeyboardInterrupt:
    sys.exit(130)
"""
SEVERAL = """\
    from hostctl.cli import many
    many.each(["web", "web.2"], lambda name: wait() if name == "web" else threading.Event().wait())
"""
ONE_AFTER_THE_OTHER = """\
    from hostctl.cli import many
    many.each(["web", "next"], lambda name: wait() if name == "web" else os._exit(1), at_once=1)
"""
READING = """\
    from hostctl.cli.cp import piped
    piped(lambda pipe: os.write(pipe, bytes(1 << 20)), wait)
"""
NO_ANSWER = """\
    from hostctl.cli.cp import piped
    piped(lambda pipe: threading.Event().wait(), wait)
"""
BUILDING = """\
    from hostctl.agent import client
    from hostctl.cli import container_build

    def ask(*words, descriptors, **more):
        os.dup(descriptors[0])  # the agent has it open as well, and does not read
        wait()

    client.ask = ask
    parser = argparse.ArgumentParser()
    container_build.configure(parser)
    container_build.run(parser.parse_args(["-q", sys.argv[1]]))
"""


@pytest.mark.parametrize(
    "body",
    [SEVERAL, ONE_AFTER_THE_OTHER, READING, NO_ANSWER, BUILDING],
    ids=["several", "one-after-the-other", "reading", "no-answer", "building"],
)
def test_an_interrupted_program_ends(body: str, tmp_path: Path) -> None:
    (tmp_path / "Containerfile").write_text("FROM r.example/tool:1\n")
    (tmp_path / "more").write_bytes(bytes(1 << 20))  # than a pipe holds
    words = [sys.executable, "-c", FRAME.format(body=body), str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(SECONDS) == 130
        finally:
            process.kill()
