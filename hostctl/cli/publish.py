"""``hostctl publish``: add a built release to a repository of static files."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from hostctl.cli.repository import add_json, add_keys, add_repository, add_terms, keyring_of, repository_of, terms_of
from hostctl.progress import Progress
from hostctl.repository.offers import Published
from hostctl.repository.publish import publish
from hostctl.repository.release import encode_offer

EXAMPLES = """\
examples:
  hostctl publish build/ --repository /srv/updates --keys keys/
  hostctl publish build/ --repository /srv/updates --keys keys/ --channel beta
  hostctl publish build/ --repository /srv/updates --keys keys/ --delta-from 2026.10.1 --delta-from 2026.9.1
  hostctl publish build/ --repository /srv/updates --keys keys/ --rollout "100% over 48h" --minimum 2026.9.1
  HOSTCTL_KEYS=keys hostctl publish build/ --repository /srv/updates --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("build", type=Path, help="folder that `hostctl build` wrote")
    add_repository(parser)
    add_keys(parser)
    parser.add_argument("--channel", metavar="NAME", help="where it is offered (default: the one of release.yaml)")
    parser.add_argument(
        "--delta-from",
        action="append",
        default=[],
        metavar="RELEASE",
        help="make a delta from a version in the repository, or from the build in a folder; may be repeated",
    )
    add_terms(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Publish, and say what is in the repository now.

    Raises:
        UsageError: no keys are named, or an option has no meaning.
    """
    now = datetime.now(UTC)
    done = publish(
        arguments.build,
        repository_of(arguments),
        keyring_of(arguments),
        channel=arguments.channel,
        wanted=terms_of(arguments, now),
        delta_from=arguments.delta_from,
        report=Progress(quiet=arguments.json).line,
        now=now,
    )
    if arguments.json:
        print(json.dumps(document(done), indent=1))
    else:
        how = "published" if done.new else "was published already, its metadata are renewed:"
        print(f"{how} {describe(done)} in {repository_of(arguments)}")
    return 0


def document(done: Published) -> dict[str, object]:
    """Return what ``--json`` prints of a release that is offered."""
    return {
        "release": asdict(done.release),
        "channel": done.channel,
        "offer": encode_offer(done.offer),
        "deltas": [asdict(delta) for delta in done.deltas],
        "new": done.new,
    }


def describe(done: Published) -> str:
    """Return a line on a release that is offered."""
    words = [f"{done.release.title} ({done.release.architecture}, channel {done.channel})"]
    if done.offer.minimum is not None:
        words.append(f"for hosts with {done.offer.minimum} or newer")
    if done.offer.rollout is not None:
        rollout = done.offer.rollout
        words.append(f"to {rollout.percent:g} % over {rollout.hours:g} h from {rollout.start:%Y-%m-%d %H:%M} UTC")
    return ", ".join(words)
