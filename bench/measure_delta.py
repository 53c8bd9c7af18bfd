"""What updates transfer, against others on the same pair of releases: `bench/delta [--json] [--runs N]`.

The pair is examples/edge locked to Debian's last point release and to the same with security updates, both built here.
Others run on images as builders of Debian images ship them (compressed modules, kernel and initrd), which is what
`ratio_to_best_peer` compares with, and again on our plain images, where techniques that see nothing of their inside do
much better: `ratio_to_best_peer_on_our_images`. Times are those of whole processes, from the disk and flushed to it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench import debian_style, figures, hosts, peers
from hostctl.compose.manifest import load_manifest
from hostctl.payload.delta import make_delta
from hostctl.payload.pack import Files, Packed, library_compressor, pack_full

RELEASE = hosts.ROOT / "examples/edge/release.yaml"
WORK = hosts.WORK / "delta"
CHANGED, ADDED = "etc/issue", "usr/share/hostctl/added"
"""A file that every release has, and one that none has."""
RATIO, MEMORY_MIB, ONE_FILE = 0.15, 64.0, 20_000.0
MB = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Applied:
    """What applying took: seconds in all, seconds of the processor, and KiB of memory at most."""

    wall: float
    processor: float
    peak: int


def build(name: str, release: Path, lock: Path) -> Path:
    """Build a release and return its folder."""
    output = hosts.WORK / name
    hosts.hostctl("build", release, "-o", output, "--keys", hosts.make_keys(), "--lock", lock)
    return output


def point_lock() -> Path:
    """Return the lock to the last point release, made once."""
    lock = hosts.WORK / "edge-point.lock"
    if not lock.exists():
        hosts.WORK.mkdir(parents=True, exist_ok=True)
        hosts.hostctl("lock", RELEASE, "--without-security", "-o", lock, "--fetch")
    return lock


def files(built: Path) -> Files:
    """Return the two files of a release that a payload makes."""
    manifest = load_manifest(built)
    return Files(root=built / manifest.artifact("root").path, uki=built / manifest.artifact("uki").path)


def delta(name: str, old: Files, new: Files) -> Packed:
    """Make a delta in a folder of its own."""
    folder = WORK / name
    folder.mkdir(parents=True, exist_ok=True)
    return make_delta(old, new, folder)


def variant(path: str, lock: Path) -> Files:
    """Return examples/edge with one file of its own."""
    name = f"delta-{Path(path).name}"
    release = hosts.release_folder(name, RELEASE.read_text() + "files: overlay/\n")
    file = release.parent / "overlay" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("One line of text.\n")
    return files(build(f"{name}-build", release, lock))


def run_apply(*words: str | Path) -> Applied:
    """Run bench/apply_payload.py once and return what it took."""
    folder = hosts.fresh_folder("delta-applied")
    folder.mkdir(parents=True)
    argv = [sys.executable, "-m", "bench.apply_payload", *map(str, words), str(folder)]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, cwd=hosts.ROOT)
    hosts.fresh_folder("delta-applied")
    if done.returncode:
        raise hosts.BenchError("a payload could not be applied", details=done.stderr)
    return Applied(**json.loads(done.stdout))


def apply_figures(change: Packed, full: Packed, old: Files, new: Files, runs: int) -> list[figures.Figure]:
    """Return times and memory of applying; runs of a delta and of the full payload take turns."""
    results: dict[str, list[Applied]] = {"delta": [], "full": [], "raw": []}
    for _ in range(runs):
        for name, packed in (("full", full), ("delta", change)):
            results[name].append(run_apply(packed.index, packed.segments, old.root, old.uki))
        results["raw"].append(run_apply("raw", new.root, new.uki))
    walls = {name: [one.wall for one in some] for name, some in results.items()}
    work = {name: [one.processor for one in some] for name, some in results.items()}
    peak = max(one.peak for one in results["delta"])
    texts = {"delta": "delta applied", "full": "full image written", "raw": "its bytes written, nothing else"}
    rows = [figures.median(text, walls[name]) for name, text in texts.items()]
    rows += [figures.median(f"{text}, processor", work[name]) for name, text in texts.items()]
    rows += [
        figures.ratio("apply_time_ratio", median(walls["delta"]), median(walls["full"]), target=1.0),
        figures.ratio("apply_processor_ratio", median(work["delta"]), median(work["full"]), target=1.0),
        figures.ratio("apply_time_to_raw_writing", median(walls["delta"]), median(walls["raw"])),
        figures.Figure(name="apply_memory", value=peak / 1024, unit="MiB", target=MEMORY_MIB, note="whole process"),
    ]
    return rows


def megabytes(name: str, size: float, note: str = "") -> figures.Figure:
    """Return a size as a figure."""
    return figures.Figure(name=name, value=size / MB, unit="MB", note=note)


def peer_figures(kind: str, sizes: dict[str, int]) -> list[figures.Figure]:
    """Return what the peers transfer."""
    return [megabytes(f"{name}, {kind}", size) for name, size in sizes.items()]


def main() -> int:
    """Build, compare, print."""
    parser = argparse.ArgumentParser(prog="bench/delta", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--runs", type=figures.positive, default=5, metavar="N", help="how often to apply each payload")
    arguments = parser.parse_args()
    before = figures.load()
    peers.install()
    locks = {"old": point_lock(), "new": hosts.make_lock(RELEASE)}
    built = {name: build(f"delta-{name}", RELEASE, lock) for name, lock in locks.items()}
    old, new = files(built["old"]), files(built["new"])
    began = time.monotonic()
    change = delta("change", old, new)
    generating = time.monotonic() - began
    (WORK / "full").mkdir(exist_ok=True)
    full = pack_full(new, WORK / "full", library_compressor())
    one_file = delta("one-file", new, variant(CHANGED, locks["new"])).bytes
    one_added = delta("one-added", new, variant(ADDED, locks["new"])).bytes
    rows = [
        megabytes("full payload", full.bytes),
        megabytes("delta, root and boot image", change.bytes, note=f"index {change.index.stat().st_size} bytes"),
        figures.Figure(name="generating and proving it", value=generating, unit="s"),
        figures.Figure(name="one_file_change", value=one_file, unit="B", target=ONE_FILE),
        figures.Figure(name="one_file_added", value=one_added, unit="B", target=ONE_FILE),
        *apply_figures(change, full, old, new, arguments.runs),
    ]
    style = {name: debian_style.files(built[name], locks[name], WORK / f"style-{name}") for name in built}
    packages = peers.changed_packages(locks["old"], locks["new"])
    shipped = peers.transferred([(style["old"][part], style["new"][part]) for part in ("root", "uki")], WORK / "peers")
    shipped["changed Debian packages"] = sum(package.size for package in packages)
    ours = peers.transferred([(old.root, new.root), (old.uki, new.uki)], WORK / "peers")
    rows += peer_figures("images as Debian builders ship them", shipped)
    rows += peer_figures("our images", ours)
    rows.append(figures.ratio("ratio_to_best_peer", change.bytes, min(shipped.values()), target=RATIO))
    rows.append(figures.ratio("ratio_to_best_peer_on_our_images", change.bytes, min(ours.values())))
    changed = ", ".join(f"{package.name} {package.version}" for package in packages)
    report = figures.Report(
        title="Bytes and times of an update between two real releases",
        figures=tuple(rows),
        conditions=figures.conditions(before, f"changed packages: {changed}"),
    )
    figures.show(report, as_json=arguments.json)
    return 0
