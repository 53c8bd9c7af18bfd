#!/usr/bin/env python3
"""hostctl's client behind the command line that the public TUF conformance suite drives: init, refresh, download.

A host takes its trusted root from the verified image. Here ``init`` hands one in, which is kept beside the metadata.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from urllib.parse import quote

from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import TargetFile

from hostctl.durable import write_file
from hostctl.errors import HostctlError
from hostctl.repository.errors import PayloadError
from hostctl.repository.fetch import Fetcher
from hostctl.repository.trusted import Trusted

TRUSTED_ROOT = "trusted-root"  # not *.json, which would be metadata of a role


def trusted(arguments: argparse.Namespace, fetcher: Fetcher) -> Trusted:
    """Return the repository, refreshed."""
    found = Trusted(
        metadata=arguments.metadata_url,
        root=(arguments.metadata_dir / TRUSTED_ROOT).read_bytes(),
        folder=arguments.metadata_dir,
        fetcher=fetcher,
    )
    found.refresh()
    return found


def holds(path: Path, target: TargetFile) -> bool:
    """Tell whether a file is what was signed."""
    try:
        target.verify_length_and_hashes(path.read_bytes())
    except (OSError, LengthOrHashMismatchError):
        return False
    return True


def download(arguments: argparse.Namespace) -> None:
    """Download targets in order."""
    fetcher = Fetcher()
    repository = trusted(arguments, fetcher)
    for name in arguments.target_name:
        (target,) = repository.find([name])
        if target is None:
            raise PayloadError(f"{name} is not in the repository")
        path = arguments.target_dir / quote(name, "")
        if holds(path, target):
            continue
        algorithm, digest = next(iter(target.hashes.items()))
        parent, slash, last = name.rpartition("/")
        stored = f"{parent}{slash}{digest}.{last}" if repository.consistent else name
        data = fetcher.whole(arguments.target_base_url + stored, target.length, fetcher.meter())
        try:
            target.verify_length_and_hashes(data)
        except LengthOrHashMismatchError as error:
            raise PayloadError(f"{name} is not what was signed ({algorithm})", details=str(error)) from error
        write_file(path, data)


def main() -> int:
    """Run one command of the protocol."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--metadata-dir", type=Path, required=True)
    parser.add_argument("--metadata-url")
    parser.add_argument("--target-name", action="append", default=[])
    parser.add_argument("--target-base-url")
    parser.add_argument("--target-dir", type=Path)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("root", type=Path)
    commands.add_parser("refresh")
    commands.add_parser("download")
    arguments = parser.parse_args()
    try:
        if arguments.command == "init":
            shutil.copyfile(arguments.root, arguments.metadata_dir / TRUSTED_ROOT)
            shutil.copyfile(arguments.root, arguments.metadata_dir / "root.json")
        elif arguments.command == "refresh":
            trusted(arguments, Fetcher())
        else:
            download(arguments)
    except HostctlError as error:
        print(error.render(), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
