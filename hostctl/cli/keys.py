"""``hostctl keys``: the keys that sign releases."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from hostctl.cli import actions
from hostctl.compose.keys import add_channel, make_keys
from hostctl.repository.keyring import DEFAULT_CHANNEL
from hostctl.repository.roles import ROOT_KEYS, ROOT_THRESHOLD

EXAMPLES = """\
examples:
  hostctl keys init keys                                     a complete set of development keys in the folder keys
  hostctl keys init keys --channel stable --channel beta     with two channels
  hostctl keys init keys --root-keys 5 --threshold 3         3 of 5 root keys must sign a change of keys
  hostctl keys channel keys canary                           a key for another channel; `hostctl repo init` adds it
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    words = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    init = actions.add(words, "init", "make a complete set of development keys", EXAMPLES)
    init.add_argument("folder", type=Path, metavar="DIR", help="new folder")
    init.add_argument(
        "--channel",
        action="append",
        metavar="NAME",
        help=f"a channel of the repository, may be repeated (default: {DEFAULT_CHANNEL})",
    )
    init.add_argument(
        "--root-keys", type=int, default=ROOT_KEYS, metavar="N", help="number of root keys (default: %(default)s)"
    )
    init.add_argument(
        "--threshold",
        type=int,
        default=ROOT_THRESHOLD,
        metavar="N",
        help="how many root keys must sign a change of keys (default: %(default)s)",
    )
    channel = actions.add(words, "channel", "make the key of another channel", EXAMPLES)
    channel.add_argument("folder", type=Path, metavar="DIR", help="folder of `hostctl keys init`")
    channel.add_argument("name", metavar="NAME", help="the channel's name")
    for action in (init, channel):
        action.add_argument("--json", action="store_true", help="print a JSON document")


def run(arguments: argparse.Namespace) -> int:
    """Make the keys and say what they are for."""
    folder: Path = arguments.folder
    if arguments.action == "channel":
        path = add_channel(folder.absolute(), arguments.name)
        _say(arguments, {"key": str(path)}, f"{path} signs the releases of channel {arguments.name}")
        return 0
    channels = list(dict.fromkeys(arguments.channel or [DEFAULT_CHANNEL]))
    make_keys(folder.absolute(), channels=channels, root_keys=arguments.root_keys, threshold=arguments.threshold)
    lines = [
        f"{folder}/secure-boot.key     signs boot loader and kernel image; secure-boot/*.auth enrol it",
        f"{folder}/verity.key          signs the root hash",
        f"{folder}/tuf/root.json       goes into the image: what a host's trust in the repository starts from",
        f"{folder}/tuf/root-*.pem      {arguments.threshold} of {arguments.root_keys} sign a change of keys; keep them"
        " offline, apart from each other",
        f"{folder}/tuf/targets.pem     signs which channels there are; keep it offline",
        f"{folder}/tuf/channel-*.pem   sign the releases of {', '.join(channels)}",
        f"{folder}/tuf/snapshot.pem, timestamp.pem   sign at every change, and each week",
    ]
    _say(arguments, {"folder": str(folder), "channels": channels, "threshold": arguments.threshold}, "\n".join(lines))
    return 0


def _say(arguments: argparse.Namespace, document: dict[str, object], text: str) -> None:
    print(json.dumps(document, indent=1) if arguments.json else text)
