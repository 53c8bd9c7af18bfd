"""``hostctl image build`` and ``lock``: OCI images from Debian packages and files. Builder only."""

from __future__ import annotations

import argparse
from pathlib import Path

from hostctl.cli import actions
from hostctl.durable import write_file
from hostctl.image.build import LOCK_NAME, build_image, format_lock, load_image, make_lock
from hostctl.progress import Progress

EXAMPLES = """
  hostctl image lock image.yaml                     write image.lock beside it
  hostctl image build image.yaml -o site.oci.tar    build the archive; the lock is made if there is none
"""


def configure(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the words."""
    build = actions.add(verbs, "build", "build an OCI archive", EXAMPLES)
    build.add_argument("image", type=Path, metavar="IMAGE.yaml")
    build.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the OCI archive")
    lock = actions.add(verbs, "lock", "pin the packages", EXAMPLES)
    lock.add_argument("image", type=Path, metavar="IMAGE.yaml")


def run(arguments: argparse.Namespace) -> int:
    """Lock or build."""
    progress = Progress()
    if arguments.what == "lock":
        image = load_image(arguments.image)
        with progress.stage("resolve packages"):
            packages = make_lock(image)
        write_file(arguments.image.with_name(LOCK_NAME), format_lock(image, packages))
        return 0
    with progress.stage("image"):
        digest = build_image(arguments.image, arguments.output)
    print(digest)
    return 0
