"""``hostctl repo``: make, look after and check a repository of releases."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hostctl.cli import publish, repo_keys, repo_look
from hostctl.cli.publish import describe, document
from hostctl.cli.repository import add_json, add_keys, add_repository, add_terms, keyring_of, repository_of, terms_of
from hostctl.repository.expire import GRACE, KEEP, expire, refresh
from hostctl.repository.offers import initialise, promote, withdraw

EXAMPLES = """\
examples:
  hostctl repo init --repository /srv/updates --keys keys      make a repository, or add channels with new keys
  hostctl repo publish build/ --repository /srv/updates --keys keys --channel beta
  hostctl repo promote 2026.11.1 --to stable --rollout "100% over 48h" --repository /srv/updates --keys keys
  hostctl repo refresh --repository /srv/updates --keys keys   from a timer, each day: sign the timestamp anew
  hostctl repo verify --repository /srv/updates                check every signature, date and file
`hostctl repo ACTION --help` explains one. $HOSTCTL_REPOSITORY and $HOSTCTL_KEYS stand in for the options.
"""
_WHERE = "--repository /srv/updates --keys keys"


@dataclass(frozen=True, slots=True)
class Action:
    """An action of the verb."""

    name: str
    summary: str
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    examples: str


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for action in ACTIONS:
        sub = actions.add_parser(
            action.name,
            help=action.summary,
            description=action.summary[0].upper() + action.summary[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog=action.examples,
        )
        action.configure(sub)
        sub.set_defaults(act=action.run)


def run(arguments: argparse.Namespace) -> int:
    """Do what is asked."""
    act: Callable[[argparse.Namespace], int] = arguments.act
    return act(arguments)


def _signing(parser: argparse.ArgumentParser) -> None:
    add_repository(parser)
    add_keys(parser)
    add_json(parser)


def _init(arguments: argparse.Namespace) -> int:
    repository = repository_of(arguments)
    done = initialise(repository, keyring_of(arguments))
    if arguments.json:
        waiting = None if done.draft is None else str(done.draft.path)
        shown = {"channels": done.channels, "added": done.added, "root": done.root_version, "draft": waiting}
        print(json.dumps(shown, indent=1))
    elif done.draft is not None:
        print(f"{', '.join(done.added)} will be added to {repository} when the key of targets has signed")
        print(repo_keys.next_step(done.draft, repository))
    else:
        added = f", added: {', '.join(done.added)}" if done.added else ""
        print(f"{repository} has the channels {', '.join(done.channels) or 'none'}{added}")
    return 0


def _configure_promote(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("version", metavar="VERSION", help="a release that is in some channel")
    parser.add_argument("--to", required=True, metavar="CHANNEL", help="where it is to be offered")
    parser.add_argument("--name", metavar="IMAGE", help="of which image, if the repository has several")
    add_terms(parser)
    _signing(parser)


def _promote(arguments: argparse.Namespace) -> int:
    now = datetime.now(UTC)
    repository = repository_of(arguments)
    wanted = terms_of(arguments, now)
    keyring = keyring_of(arguments)
    done = promote(repository, keyring, arguments.version, arguments.to, name=arguments.name, wanted=wanted, now=now)
    if arguments.json:
        print(json.dumps(document(done), indent=1))
    else:
        print(f"{'promoted' if done.new else 'changed the terms of'} {describe(done)} in {repository}")
    return 0


def _configure_withdraw(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("version", metavar="VERSION", help="the release")
    parser.add_argument("--from", required=True, metavar="CHANNEL", dest="channel", help="the channel it is taken from")
    parser.add_argument("--name", metavar="IMAGE", help="of which image, if the channel has several")
    _signing(parser)


def _withdraw(arguments: argparse.Namespace) -> int:
    repository = repository_of(arguments)
    keyring = keyring_of(arguments)
    gone = withdraw(repository, keyring, arguments.version, arguments.channel, name=arguments.name)
    if arguments.json:
        print(json.dumps({"name": gone.name, "version": gone.version, "channel": gone.channel}, indent=1))
    else:
        print(f"withdrew {gone.name}_{gone.version} from channel {gone.channel} in {repository}")
        print("Hosts that run it keep it. `hostctl repo expire` removes its files when no channel has it.")
    return 0


def _configure_expire(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keep",
        type=int,
        default=KEEP,
        metavar="N",
        help="newest releases that stay in a channel (default: %(default)s)",
    )
    parser.add_argument("--channel", metavar="NAME", help="drop releases from this channel alone")
    parser.add_argument(
        "--grace",
        type=float,
        default=GRACE.total_seconds() / 3600,
        metavar="HOURS",
        help="files stay as long after they were needed last, for hosts that have begun (default: %(default)g)",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would happen, and do nothing")
    _signing(parser)


def _expire(arguments: argparse.Namespace) -> int:
    repository = repository_of(arguments)
    done = expire(
        repository,
        keyring_of(arguments),
        keep=arguments.keep,
        channel=arguments.channel,
        grace=timedelta(hours=arguments.grace),
        dry_run=arguments.dry_run,
    )
    if arguments.json:
        dropped = [{"name": one.name, "version": one.version, "channel": one.channel} for one in done.dropped]
        print(json.dumps({"dropped": dropped, "files": done.files, "bytes": done.bytes}, indent=1))
        return 0
    would = "would be " if arguments.dry_run else ""
    for one in done.dropped:
        print(f"{one.name}_{one.version} {would}dropped from channel {one.channel}")
    print(f"{len(done.files)} files {would}removed, {done.bytes / 1048576:.1f} MiB")
    return 0


def _refresh(arguments: argparse.Namespace) -> int:
    done = refresh(repository_of(arguments), keyring_of(arguments))
    if arguments.json:
        shown = {"signed": done.signed, "lacking": done.lacking, "expires": done.expires.isoformat()}
        print(json.dumps(shown, indent=1))
    else:
        print(f"signed {', '.join(done.signed)}; hosts believe it until {done.expires:%Y-%m-%d %H:%M} UTC")
        for role in done.lacking:
            print(f"note: {role} is past half of its life, and its key is not here")
    return 0


ACTIONS = (
    Action(
        "init",
        "make a repository, or add the channels whose keys are new",
        _signing,
        _init,
        f"""\
examples:
  hostctl repo init {_WHERE}
  hostctl keys channel keys canary && hostctl repo init {_WHERE}
""",
    ),
    Action(
        "publish",
        "add a built release",
        publish.configure,
        publish.run,
        publish.EXAMPLES.replace("hostctl publish", "hostctl repo publish"),
    ),
    Action(
        "promote",
        "offer a release in another channel, or on other terms",
        _configure_promote,
        _promote,
        f"""\
examples:
  hostctl repo promote 2026.11.1 --to stable {_WHERE}
  hostctl repo promote 2026.11.1 --to stable --rollout "100% over 48h" {_WHERE}
  hostctl repo promote 2026.11.1 --to stable --rollout "0%" {_WHERE}     stop: no further host takes it
  hostctl repo promote 2026.11.1 --to stable --rollout "100%" {_WHERE}   every host may, at once
""",
    ),
    Action(
        "withdraw",
        "take a release out of a channel at once",
        _configure_withdraw,
        _withdraw,
        f"examples:\n  hostctl repo withdraw 2026.11.1 --from stable {_WHERE}\n",
    ),
    Action(
        "expire",
        "drop old releases, and remove files that nothing leads to",
        _configure_expire,
        _expire,
        f"""\
examples:
  hostctl repo expire --keep 3 {_WHERE}
  hostctl repo expire --keep 3 --dry-run {_WHERE}
Releases that others need on their way, and one that every host may take, always stay.
""",
    ),
    Action(
        "refresh",
        "sign the timestamp anew, and what else is past half of its life",
        _signing,
        _refresh,
        f"examples:\n  hostctl repo refresh {_WHERE}     each day, from a timer; needs the online keys alone\n",
    ),
    *(Action(*action) for action in repo_keys.ACTIONS),
    *(Action(*action) for action in repo_look.ACTIONS),
)
