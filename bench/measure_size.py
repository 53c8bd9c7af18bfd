"""Sizes of what a release is made of, against their targets: `bench/size [--json] [RELEASE.yaml]`."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench import figures, hosts
from hostctl.compose.manifest import load_manifest

MIB = 1 << 20
TARGETS = {"root": 320.0, "root.zst": 90.0, "uki": 60.0}
"""MiB, the most that each should have."""
MEASURED = {
    "root": "root, EROFS as it lies in the slot",
    "root.zst": "root, as an update transfers it",
    "uki": "UKI: kernel, initrd, command line",
    "initrd": "initrd in the UKI, plain",
    "kernel": "kernel as Debian compresses it",
    "verity": "verity tree",
}


def main() -> int:
    """Build the release and print sizes."""
    parser = argparse.ArgumentParser(prog="bench/size", description=__doc__)
    parser.add_argument("release", nargs="?", type=Path, default=hosts.ROOT / "examples/edge/release.yaml")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    before = figures.load()
    manifest = load_manifest(hosts.build(arguments.release.absolute()))
    sizes = {name: manifest.artifact(name).bytes / MIB for name in MEASURED}
    rows = [
        figures.Figure(name=text, value=sizes[name], unit="MiB", target=TARGETS.get(name))
        for name, text in MEASURED.items()
    ]
    rows.append(figures.ratio("transferred root to raw root", sizes["root.zst"], sizes["root"]))
    report = figures.Report(
        title=f"Sizes of {manifest.name} {manifest.version}",
        figures=tuple(rows),
        conditions=figures.conditions(before),
    )
    figures.show(report, as_json=arguments.json)
    return 0
