"""``hostctl commit``: an image of what a workload has written, through the agent."""

from __future__ import annotations

import argparse
import json
import sys

from hostctl.agent import client
from hostctl.progress import Progress

EXAMPLES = """examples:
  hostctl commit run-tool registry.example/tool:2
  hostctl commit -m 'with curl' -a 'ops <ops@example.org>' run-tool tool:2
  hostctl commit --pause=false site

Its image's layers and configuration stay, what it wrote outside of volumes becomes one layer more; `images`, `save` and
`push` know it like any other. A workload that runs stands still while its files are read; one that has ended is taken
as it ended. The same files and words give the same image. It prints the image's id.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("-m", "--message", default="", metavar="TEXT", help="a note in the image's history")
    parser.add_argument("-a", "--author", default="", metavar="NAME", help="who made it")
    words = ("true", "false")
    parser.add_argument(
        "-p", "--pause", nargs="?", const="true", default="true", choices=words, help="keep it still (default: true)"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="do not tell what is being done")
    parser.add_argument("--json", action="store_true", help="print a JSON document")
    parser.add_argument("workload", help="its name")
    parser.add_argument("image", nargs="?", default="", metavar="NAME[:TAG]", help="a name for the image")


def run(arguments: argparse.Namespace) -> int:
    """Let the agent make it, and print its id."""
    request = {"message": arguments.message, "author": arguments.author, "pause": arguments.pause == "true"}
    progress = Progress(quiet=arguments.quiet or arguments.json)
    made = client.ask("Commit", arguments.workload, arguments.image, json.dumps(request), on_progress=progress.line)
    if arguments.json:
        print(json.dumps(made))
        return 0
    for path in made["skipped"]:
        shown = path if path.isprintable() else path.encode("unicode_escape").decode()
        print(f"note: not kept: {shown}", file=sys.stderr)
    print(made["id"])
    return 0
