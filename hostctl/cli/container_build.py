"""``hostctl build`` on a host: an image from a Containerfile, built in a workload of its own, through the agent."""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hostctl.agent import client
from hostctl.cli import relay
from hostctl.cli.background import begun
from hostctl.cli.pull import references
from hostctl.errors import HostctlError, UsageError
from hostctl.image import containerfile
from hostctl.printable import printable
from hostctl.progress import Progress
from hostctl.workload.beneath import TransferError
from hostctl.workload.packing import Packer

KEPT = 64 << 10  # bytes of what a quiet build printed that are shown if it fails
NAMES = ("Containerfile", "Dockerfile")
EXAMPLES = """examples:
  hostctl build -t site:2 .
  hostctl build -t registry.example/site:2 -f site/Containerfile --build-arg VERSION=2 site
  hostctl build --pull -t site:2 .       with what the tags of its FROM stand for now
  id=$(hostctl build -q --target test .)

host.yaml must say what images are built with, as in `build: {image: localhost/buildah:1}`. The context is sent as a
whole; .containerignore or .dockerignore says what of it COPY does not see. Images that the Containerfile names are the
host's own, or are pulled as `hostctl pull` does, signatures included. What the build prints goes to standard error.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "-f", "--file", type=Path, metavar="FILE", help="default: Containerfile or Dockerfile in CONTEXT"
    )
    parser.add_argument("-t", "--tag", action="append", default=[], metavar="NAME:TAG", help="a name for the image")
    parser.add_argument("--target", default="", metavar="STAGE", help="build up to this stage")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME[=VALUE]", help="a value for an ARG")
    parser.add_argument("--pull", action="store_true", help="ask registries first what the images' tags stand for now")
    parser.add_argument("--no-cache", action="store_true", help="build every step, as is the default")
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing but the image's id")
    parser.add_argument("--json", action="store_true", help="print a JSON document")
    parser.add_argument("context", type=Path, metavar="CONTEXT", help="a folder")


def variables(words: list[str], environment: Mapping[str, str]) -> dict[str, str]:
    """Return build arguments; one without a value has that of the environment, or none."""
    made = {}
    for word in words:
        name, equals, value = word.partition("=")
        if equals or name in environment:
            made[name] = value if equals else environment[name]
    return made


def read(arguments: argparse.Namespace) -> str:
    """Return the Containerfile.

    Raises:
        UsageError: there is none that can be read.
    """
    if not arguments.context.is_dir():
        raise UsageError(f"{arguments.context}: no such folder")
    found = [arguments.context / name for name in NAMES if (arguments.context / name).is_file()]
    path: Path | None = arguments.file or next(iter(found), None)
    if path is None:
        raise UsageError(f"there is no {' and no '.join(NAMES)} in {arguments.context}", hint="-f FILE")
    try:
        with path.open("rb") as file:
            data = file.read(containerfile.BYTES + 1)
        text = data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read", details=str(error)) from error
    if len(data) > containerfile.BYTES:
        raise UsageError(f"{path} has more than {containerfile.BYTES} bytes")
    return text


def request(arguments: argparse.Namespace, text: str) -> dict[str, object]:
    """Return what the agent is asked for.

    Raises:
        ContainerfileError, UsageError: it cannot be built.
    """
    given = variables(arguments.build_arg, os.environ)
    needs = containerfile.needed(text, given)
    return {
        "tags": [str(reference) for reference in references(arguments.tag)],
        "needs": list(needs),
        "arguments": [f"{name}={containerfile.renamed(value, needs)}" for name, value in given.items()],
        "target": arguments.target,
        "quiet": arguments.quiet,
    }


def pack(text: str, context: Path, descriptor: int) -> list[str]:
    """Write the stream of a build to a file and close it; return what was left out, as sockets and devices."""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY)
    try:
        with os.fdopen(descriptor, "wb") as stream, tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "Containerfile")
            file.write_text(text)
            packer = Packer(stream)
            try:
                packer.add(root, str(file), "Containerfile")
                packer.add(root, str(context.resolve()), "context")
            except BrokenPipeError:  # whoever reads it says why; what is left of the archive goes nowhere
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
            packer.close()
            return packer.skipped
    finally:
        os.close(root)


def _built(wanted: Mapping[str, object], text: str, arguments: argparse.Namespace) -> tuple[Any, list[str]]:
    """Let the agent build, while the context goes to it and what is printed comes back.

    What the build prints comes by a pipe, because our own terminal is none of its business.
    """
    context_out, context_in = os.pipe()
    kept = bytearray()  # the end of what was not shown
    progress = Progress(quiet=arguments.quiet or arguments.json)

    def show(data: bytes) -> None:
        if arguments.quiet:
            kept[:] = (kept + data)[-KEPT:]
        else:
            sys.stderr.buffer.write(data)
            sys.stderr.flush()

    packing = begun(functools.partial(pack, text, arguments.context, context_in))
    try:
        with relay.outlet(show) as said:
            descriptors = (context_out, said, said)
            built = client.ask("Build", json.dumps(wanted), descriptors=descriptors, on_progress=progress.line)
    except HostctlError:
        sys.stderr.buffer.write(kept)
        raise
    finally:
        os.close(context_out)
    return built, packing.result()


def run(arguments: argparse.Namespace) -> int:
    """Let the agent build, and print the image's id."""
    text = read(arguments)
    wanted = request(arguments, text)
    needs = containerfile.needed(text, variables(arguments.build_arg, os.environ))
    if arguments.pull:
        progress = Progress(quiet=arguments.quiet or arguments.json)
        for reference in references([*needs]):
            client.ask("PullImage", str(reference), on_progress=progress.line)
    text = containerfile.renamed(text, needs)
    try:
        built, skipped = _built(wanted, text, arguments)
    except (TransferError, OSError) as error:
        raise UsageError(f"{arguments.context} cannot be read", details=str(error)) from error
    if skipped and not arguments.quiet:
        print(f"left out: {printable(', '.join(skipped[:10]))}", file=sys.stderr)
    print(json.dumps(built) if arguments.json else built["id"])
    return 0
