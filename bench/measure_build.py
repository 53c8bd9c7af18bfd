"""Times of building a release: `bench/build [--json]`.

Cold is everything but downloads: the cache holds the locked packages and no stage. Then the same release again, and
again with one file of its own changed. The cache and the release are made for this and removed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import tempfile
import time
from pathlib import Path

from bench import figures, hosts
from hostctl.compose.lock import cache_folder, load_lock
from hostctl.compose.packages import deb_path

STAGE = re.compile(r"^✓ (?P<name>.+?) +(?P<seconds>[0-9.]+) s(?P<rest>.*)$", re.MULTILINE)
FILE = "overlay/usr/share/bench/page.html"


def fill(cache: Path, lock: Path) -> None:
    """Give a cache the packages of a lock, by hard links where it is on the same file system."""
    known = load_lock(lock)
    for package in (*known.host, *known.kernel, *known.tools):
        source, target = deb_path(cache_folder(), package), deb_path(cache, package)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            continue
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)


def stages(text: str) -> str:
    """Return the stages that a build made, with their times, out of its progress."""
    made = (match for match in STAGE.finditer(text) if "unchanged" not in match["rest"])
    return ", ".join(f"{match['name'].strip()} {match['seconds']}" for match in made)


def timed(release: Path, output: Path, lock: Path, cache: Path) -> tuple[float, str]:
    """Build and return the seconds it took, with the stages that were made."""
    started = time.monotonic()
    said = hosts.hostctl(
        *("build", release, "-o", output, "--keys", hosts.make_keys(), "--lock", lock),
        environment=hosts.environment_with_cache(cache),
    )
    return time.monotonic() - started, stages(said)


def main() -> int:
    """Build three times and print what it took."""
    parser = argparse.ArgumentParser(prog="bench/build", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    example = hosts.ROOT / "examples/edge/release.yaml"
    lock = hosts.make_lock(example)
    hosts.make_keys()
    before = figures.load()
    with tempfile.TemporaryDirectory(prefix="measured-", dir=hosts.WORK) as name:
        folder = Path(name)
        release, cache, changed = folder / "release.yaml", folder / "cache", folder / FILE
        release.write_text(f"{example.read_text()}files: overlay\n")
        changed.parent.mkdir(parents=True)
        changed.write_text("one\n")
        fill(cache, lock)
        cold, cold_stages = timed(release, folder / "out", lock, cache)
        same, same_stages = timed(release, folder / "out", lock, cache)
        changed.write_text("two\n")
        other, other_stages = timed(release, folder / "out", lock, cache)
    report = figures.Report(
        title="Building examples/edge, packages downloaded before",
        figures=(
            figures.Figure(name="cold", value=cold, unit="s", target=90),
            figures.Figure(name="nothing changed", value=same, unit="s", target=3),
            figures.Figure(name="one file of the release changed", value=other, unit="s"),
            figures.ratio("nothing changed to cold", same, cold),
            figures.ratio("one file changed to cold", other, cold),
        ),
        lines=(
            f"cold made: {cold_stages}",
            f"nothing changed made: {same_stages}",
            f"one file changed made: {other_stages}",
        ),
        conditions=figures.conditions(before),
    )
    figures.show(report, as_json=arguments.json)
    return 0
