"""``hostctl publish``: add a built release to a repository of static files."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path

from hostctl.errors import UsageError
from hostctl.repository.metadata import load_keys
from hostctl.repository.publish import publish

EXAMPLES = """examples:
  hostctl publish build/ --repository /srv/updates --keys keys/
  HOSTCTL_KEYS=keys hostctl publish build/ --repository /srv/updates --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("build", type=Path, help="folder that `hostctl build` wrote")
    parser.add_argument("--repository", type=Path, required=True, metavar="DIR", help="folder that is served over HTTP")
    parser.add_argument(
        "--keys", type=Path, metavar="DIR", help="folder of `hostctl keys init` (default: $HOSTCTL_KEYS)"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def run(arguments: argparse.Namespace) -> int:
    """Publish, and say what is in the repository now.

    Raises:
        UsageError: no keys are named.
    """
    keys = arguments.keys or (Path(os.environ["HOSTCTL_KEYS"]) if os.environ.get("HOSTCTL_KEYS") else None)
    if keys is None:
        raise UsageError(
            "publishing needs the keys that sign", hint="pass --keys DIR; `hostctl keys init DIR` makes them"
        )
    done = publish(arguments.build, arguments.repository, load_keys(keys))
    if arguments.json:
        print(json.dumps({"release": asdict(done.release), "new": done.new}, indent=1))
    else:
        release = done.release
        how = "published" if done.new else "was published already, its metadata are renewed:"
        print(f"{how} {release.title} ({release.architecture}, channel {release.channel}) in {arguments.repository}")
    return 0
