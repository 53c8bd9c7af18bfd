"""Options that the commands about a repository have in common: where it is, which keys sign, on which terms."""

from __future__ import annotations

import argparse
import os
from datetime import datetime
from pathlib import Path

from hostctl.errors import UsageError
from hostctl.repository.keyring import Keyring
from hostctl.repository.terms import Terms, parse_minimum, parse_rollout, parse_time


def add_repository(parser: argparse.ArgumentParser) -> None:
    """Add ``--repository``."""
    parser.add_argument(
        "--repository",
        type=Path,
        metavar="DIR",
        help="folder that is served over HTTP (default: $HOSTCTL_REPOSITORY)",
    )


def add_keys(parser: argparse.ArgumentParser) -> None:
    """Add ``--keys``."""
    parser.add_argument(
        "--keys", type=Path, metavar="DIR", help="folder of `hostctl keys init` (default: $HOSTCTL_KEYS)"
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def add_terms(parser: argparse.ArgumentParser) -> None:
    """Add what says to whom a release is offered."""
    parser.add_argument(
        "--minimum", metavar="VERSION", help="oldest version that may update to it; `none` lifts the limit"
    )
    parser.add_argument(
        "--rollout",
        metavar="TEXT",
        help='share of the hosts over time, as in "100%% over 48h" or "10%%"; "0%%" stops it, "100%%" lifts it',
    )
    parser.add_argument(
        "--rollout-start", metavar="TIME", help="when the rollout begins, as in 2026-11-26T03:00Z (default: now)"
    )


def repository_of(arguments: argparse.Namespace) -> Path:
    """Return the repository that the user names.

    Raises:
        UsageError: there is none.
    """
    return _folder(arguments.repository, "HOSTCTL_REPOSITORY", "which repository?", "pass --repository DIR")


def keyring_of(arguments: argparse.Namespace) -> Keyring:
    """Return the keys that the user names.

    Raises:
        UsageError: there are none.
        KeyFileError: they cannot be read.
    """
    hint = "pass --keys DIR; `hostctl keys init DIR` makes them"
    return Keyring.load(_folder(arguments.keys, "HOSTCTL_KEYS", "this needs the keys that sign", hint))


def keyring_if_named(arguments: argparse.Namespace) -> Keyring | None:
    """Return the keys that the user names, or none.

    Raises:
        KeyFileError: they cannot be read.
    """
    return keyring_of(arguments) if arguments.keys is not None or os.environ.get("HOSTCTL_KEYS") else None


def _folder(named: Path | None, variable: str, question: str, hint: str) -> Path:
    folder = named or (Path(os.environ[variable]) if os.environ.get(variable) else None)
    if folder is None:
        raise UsageError(question, hint=f"{hint}, or set ${variable}")
    return folder


def terms_of(arguments: argparse.Namespace, now: datetime) -> Terms:
    """Return the terms that the user names.

    Raises:
        UsageError: they have no meaning.
    """
    if arguments.rollout_start is not None and arguments.rollout is None:
        raise UsageError("--rollout-start says when a rollout begins", hint="say which with --rollout")
    start = parse_time(arguments.rollout_start) if arguments.rollout_start is not None else now
    return Terms(
        minimum=None if arguments.minimum is None else parse_minimum(arguments.minimum),
        rollout=None if arguments.rollout is None else parse_rollout(arguments.rollout, start),
    )
