"""``hostctl repo rotate`` and ``sign``: new keys, and signatures of keys that are kept elsewhere."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from hostctl.cli.repository import add_json, add_keys, add_repository, keyring_if_named, keyring_of, repository_of
from hostctl.errors import UsageError
from hostctl.repository.drafts import Draft, describe
from hostctl.repository.rotate import Change, rotate, sign_file, sign_pending


def next_step(draft: Draft, repository: Path) -> str:
    """Return what the user does next with a draft that lacks signatures."""
    lines = []
    for lack in draft.lacking:
        whose = "new" if lack.version == draft.version else "present"
        keys = ", ".join(key_id[:8] for key_id in lack.key_ids)
        lines.append(f"  {lack.count} more of the {whose} keys of {lack.role} must sign: {keys}")
    lines.append(f"Sign {draft.path} where a key is kept: hostctl repo sign {draft.path.name} --key KEY.pem")
    lines.append(f"then bring it back: hostctl repo sign {draft.path.name} --repository {repository}")
    return "\n".join(lines)


def _draft(draft: Draft) -> dict[str, object]:
    lacking = [{"role": one.role, "count": one.count, "keys": one.key_ids} for one in draft.lacking]
    shown = {"role": draft.role, "version": draft.version, "in_effect": draft.done, "lacking": lacking}
    return shown if draft.done else {**shown, "draft": str(draft.path)}


def _say(draft: Draft, repository: Path) -> None:
    if draft.done:
        print(f"{draft.role} {draft.version} is in effect")
    else:
        print(f"{draft.role} {draft.version} waits for signatures; nothing has changed for hosts")
        print(next_step(draft, repository))


def _configure_rotate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("role", metavar="ROLE", help="root, targets, snapshot, timestamp, or a channel")
    parser.add_argument(
        "--new-key",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="PEM file of a new key, its public half is enough; may be repeated (default: keys are made in --keys)",
    )
    parser.add_argument(
        "--drop",
        action="append",
        default=[],
        metavar="KEY",
        help="file or id of a key that goes; may be repeated (default: all that the role has)",
    )
    parser.add_argument("--threshold", type=int, metavar="N", help="how many keys must sign (default: as before)")
    parser.add_argument("--discard", action="store_true", help="throw away a change that waits for signatures")
    add_repository(parser)
    add_keys(parser)
    add_json(parser)


def _rotate(arguments: argparse.Namespace) -> int:
    repository = repository_of(arguments)
    change = Change(
        role=arguments.role,
        new=tuple(arguments.new_key),
        drop=tuple(arguments.drop),
        threshold=arguments.threshold,
    )
    done = rotate(repository, keyring_of(arguments), change, discard=arguments.discard)
    if arguments.json:
        made = [str(path) for path in done.made]
        print(json.dumps({**_draft(done.draft), "made": made, "dropped": done.dropped}, indent=1))
        return 0
    for path in done.made:
        print(f"made {path}")
    for key_id in done.dropped:
        print(f"{arguments.role} drops the key {key_id[:8]}")
    _say(done.draft, repository)
    return 0


def _configure_sign(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", type=Path, nargs="?", metavar="DRAFT", help="a draft that was carried here, or is brought back signed"
    )
    parser.add_argument(
        "--key", type=Path, action="append", default=[], metavar="FILE", help="PEM file of a key; may be repeated"
    )
    add_repository(parser)
    add_keys(parser)
    add_json(parser)


def _sign(arguments: argparse.Namespace) -> int:
    if arguments.file is not None and arguments.repository is None:
        return _sign_file(arguments)
    repository = repository_of(arguments)
    carried = [arguments.file] if arguments.file is not None else []
    done = sign_pending(repository, keyring_if_named(arguments), arguments.key, carried)
    if arguments.json:
        print(json.dumps([_draft(draft) for draft in done], indent=1))
    else:
        for draft in done:
            _say(draft, repository)
    return 0


def _sign_file(arguments: argparse.Namespace) -> int:
    if not arguments.key:
        raise UsageError("which key is to sign?", hint="pass --key FILE; --repository DIR brings signatures back")
    draft, added = sign_file(arguments.file, arguments.key)
    if arguments.json:
        roles = [{"role": name, "threshold": count, "keys": keys} for name, count, keys in describe(draft)]
        shown = {"role": draft.signed.type, "version": draft.signed.version, "roles": roles, "signed": added}
        print(json.dumps(shown, indent=1))
        return 0
    print(f"{draft.signed.type} {draft.signed.version}, expires {draft.signed.expires:%Y-%m-%d}, names these keys:")
    for name, threshold, keys in describe(draft):
        print(f"  {name}: {threshold} of {', '.join(key_id[:8] for key_id in keys)}")
    print(f"signed by {', '.join(key_id[:8] for key_id in added)}" if added else "these keys had signed it already")
    return 0


_WHERE = "--repository /srv/updates --keys keys"
ACTIONS = (
    (
        "rotate",
        "give a role new keys",
        _configure_rotate,
        _rotate,
        f"""\
examples:
  hostctl repo rotate timestamp {_WHERE}                         new online key, made in keys/tuf
  hostctl repo rotate stable {_WHERE}                            new key of a channel
  hostctl repo rotate root --new-key root-4.pub --drop root-2.pem {_WHERE}
A new key of root, targets, snapshot or timestamp needs signatures of the root keys, one of a channel that of targets.
Keys that are not in --keys sign later, with `hostctl repo sign`; until there are enough, nothing changes.
""",
    ),
    (
        "sign",
        "sign a change of keys",
        _configure_sign,
        _sign,
        """\
examples:
  hostctl repo sign --key /media/safe/root-1.pem --repository /srv/updates --keys keys
  hostctl repo sign root.json --key root-2.pem                   where the key is kept: the file alone
  hostctl repo sign root.json --repository /srv/updates --keys keys      take its signatures over
The change takes effect when it has enough signatures. --keys is needed when an online role or a channel gets new keys.
""",
    ),
)
