"""Runs on the measured host: starts, restarts and stops units in turn and prints how long each took, as JSON.

Arguments: the number of rounds, then `UNIT=PORT` for each; with a port the time to the first answer is taken as well.
A first round without counting fills the caches of all. The order turns around with every round.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from http.client import HTTPException

DEADLINE = 300.0
KINDS = ("start", "answer", "restart", "stop")


def systemctl(verb: str, *words: str) -> float:
    """Run systemctl and return the seconds it took."""
    started = time.monotonic()
    subprocess.run(["/usr/bin/systemctl", verb, *words], check=True, stdin=subprocess.DEVNULL)
    return time.monotonic() - started


def settle() -> None:
    """Wait until systemd has nothing under way, so that the next figure does not pay for the last."""
    end = time.monotonic() + DEADLINE
    words = ["/usr/bin/systemctl", "list-jobs", "--no-legend", "--quiet"]
    while subprocess.run(words, check=True, capture_output=True, stdin=subprocess.DEVNULL).stdout.strip():
        if time.monotonic() > end:
            raise TimeoutError("systemd still has jobs")
        time.sleep(0.1)


def wait_for_answer(port: int, started: float) -> float:
    """Return the seconds from ``started`` to the first answer on a port of this host."""
    while time.monotonic() - started < DEADLINE:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                answer.read()
            return time.monotonic() - started
        except (OSError, urllib.error.URLError, HTTPException):
            time.sleep(0.01)
    raise TimeoutError(f"nothing answers on port {port}")


def once(unit: str, port: int) -> dict[str, float]:
    """Start, restart and stop one unit."""
    times = {}
    started = time.monotonic()
    times["start"] = systemctl("start", unit)
    if port:
        times["answer"] = wait_for_answer(port, started)
    settle()
    times["restart"] = systemctl("restart", unit)
    if port:
        wait_for_answer(port, time.monotonic())
    settle()
    times["stop"] = systemctl("stop", unit)
    settle()
    return times


def main() -> None:
    """Go through the rounds and print every time."""
    rounds = int(sys.argv[1])
    subjects = [(unit, int(port)) for unit, _, port in (word.partition("=") for word in sys.argv[2:])]
    found: dict[str, dict[str, list[float]]] = {unit: {kind: [] for kind in KINDS} for unit, _ in subjects}
    for number in range(rounds + 1):
        for unit, port in subjects if number % 2 else reversed(subjects):
            times = once(unit, port)
            if number:
                for kind, seconds in times.items():
                    found[unit][kind].append(seconds)
    print(json.dumps(found))


main()
