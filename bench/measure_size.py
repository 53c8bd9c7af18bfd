"""Sizes of what a release is made of, against their targets: `bench/size [--json] [RELEASE.yaml]`."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench import figures, hosts
from hostctl.compose.manifest import load_manifest
from hostctl.payload.index import OUTPUTS, decode_index
from hostctl.payload.pack import INDEX_NAME

MIB = 1 << 20
TARGETS = {"root": 320.0, "uki": 60.0, "packed root": 90.0}
"""MiB, the most that each should have."""
MEASURED = {
    "root": "root, EROFS as it lies in the slot",
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
    folder = hosts.build(arguments.release.absolute())
    manifest = load_manifest(folder)
    sizes = {name: manifest.artifact(name).bytes / MIB for name in MEASURED}
    rows = [
        figures.Figure(name=text, value=sizes[name], unit="MiB", target=TARGETS.get(name))
        for name, text in MEASURED.items()
    ]
    index = decode_index((folder / manifest.artifact(INDEX_NAME).path).read_bytes())
    for name in OUTPUTS:
        packed = sum(segment.stored_bytes for segment in index.outputs[name].segments) / MIB
        text = f"{name}, as an update without a delta transfers it"
        rows.append(figures.Figure(name=text, value=packed, unit="MiB", target=TARGETS.get(f"packed {name}")))
        rows.append(figures.ratio(f"transferred {name} to raw {name}", packed, sizes[name]))
    report = figures.Report(
        title=f"Sizes of {manifest.name} {manifest.version}",
        figures=tuple(rows),
        conditions=figures.conditions(before),
    )
    figures.show(report, as_json=arguments.json)
    return 0
