"""Who may sign what: the root's roles, the channels that ``targets`` delegates to, and how long each is believed.

Pure: changes python-tuf's role objects in memory. The root role names the keys of all top-level roles. ``targets``
lists no files, it only delegates every channel to a role of its own, named like the channel.

A life is a compromise: a host that is kept from the truth notices at the end of the shortest, and somebody must sign
anew before it. What online keys sign lives shortly, what needs a key from the safe lives long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from securesystemslib.signer import Key
from tuf.api.metadata import DelegatedRole, Delegations, MetaFile, Role, Root, Snapshot, Targets, Timestamp

from hostctl.config.values import Name
from hostctl.errors import HostctlError, UsageError
from hostctl.repository.metadata import AnyRole, load

ROOT, TARGETS, SNAPSHOT, TIMESTAMP = Root.type, Targets.type, Snapshot.type, Timestamp.type
TOP_LEVEL = (ROOT, TARGETS, SNAPSHOT, TIMESTAMP)
ROOT_KEYS = 3
ROOT_THRESHOLD = 2
LIVES: Mapping[str, timedelta] = {
    ROOT: timedelta(days=5 * 365),
    TARGETS: timedelta(days=2 * 365),
    SNAPSHOT: timedelta(days=60),
    TIMESTAMP: timedelta(days=14),
}
CHANNEL_LIFE = timedelta(days=365)


OnlineRole = TypeVar("OnlineRole", Timestamp, Snapshot, Targets)


@dataclass(kw_only=True, slots=True)
class SignedRoles:
    """The roles of a repository as its newest timestamp leads to them. Changed in place, as python-tuf's are."""

    root: Root
    timestamp: Timestamp
    snapshot: Snapshot
    targets: Targets
    channels: dict[str, Targets]

    def by_name(self, name: str) -> AnyRole:
        """Return a role by its name."""
        top: dict[str, AnyRole] = {
            ROOT: self.root,
            TIMESTAMP: self.timestamp,
            SNAPSHOT: self.snapshot,
            TARGETS: self.targets,
        }
        return top[name] if name in top else self.channels[name]


def empty(root: Root) -> SignedRoles:
    """Return the roles of a repository without channels."""
    return SignedRoles(
        root=root,
        timestamp=Timestamp(version=1, snapshot_meta=MetaFile(version=1)),
        snapshot=Snapshot(version=1, meta={}),
        targets=Targets(version=1, delegations=Delegations(keys={}, roles={})),
        channels={},
    )


def parse_root(data: bytes) -> Root:
    """Parse root metadata; the signatures are not looked at.

    Raises:
        MetadataError: it is broken.
    """
    return load(data, Root).signed


class NoChannelError(HostctlError):
    """The repository has no such channel."""

    id = "no-channel"


def life(role: str) -> timedelta:
    """Return how long metadata of a role is believed after it was signed."""
    return LIVES.get(role, CHANNEL_LIFE)


def expiry(role: str, now: datetime) -> datetime:
    """Return when metadata of a role that is signed at ``now`` expires."""
    return now.replace(microsecond=0) + life(role)


def channel_name(text: str) -> str:
    """Return ``text`` if it can name a channel.

    Raises:
        UsageError: it cannot.
    """
    try:
        name = str(Name.parse(text))
    except ValueError as error:
        raise UsageError(f"{text!r} cannot name a channel", details=str(error)) from error
    if name in TOP_LEVEL:
        raise UsageError(f"{text!r} cannot name a channel: it is a role of TUF", hint="as in stable, beta, canary")
    return name


def first_root(
    root_keys: Sequence[Key], others: Mapping[str, Key], expires: datetime, threshold: int = ROOT_THRESHOLD
) -> Root:
    """Return version 1 of the root role, unsigned.

    Args:
        root_keys: keys of the root role, all different.
        others: keys of targets, snapshot and timestamp.
        expires: when hosts stop to trust it, UTC.
        threshold: how many root keys must sign each later root.

    Raises:
        UsageError: there are fewer different root keys than the threshold asks for.
    """
    distinct = {key.keyid for key in root_keys}
    if not 1 <= threshold <= len(distinct) or len(distinct) != len(root_keys):
        raise UsageError(
            f"a threshold of {threshold} cannot be met by {len(distinct)} root keys", hint="as in 2 of 3 keys"
        )
    root = Root(version=1, expires=expires.replace(microsecond=0), consistent_snapshot=True)
    for key in root_keys:
        root.add_key(key, ROOT)
    root.roles[ROOT].threshold = threshold
    for name in TOP_LEVEL[1:]:
        root.add_key(others[name], name)
    return root


def channel_paths(channel: str) -> list[str]:
    """Return the patterns of the target paths that a channel's role may sign (see ``release.folder``)."""
    return [f"*/*/{channel}/*", f"*/*/{channel}/*/*"]


def channels(targets: Targets) -> tuple[str, ...]:
    """Return the channels that ``targets`` delegates to, in order."""
    delegations = targets.delegations
    return tuple(sorted(delegations.roles)) if delegations is not None and delegations.roles else ()


def delegate(targets: Targets, channel: str, keys: Sequence[Key], threshold: int = 1) -> None:
    """Let ``keys``, and no others, sign a channel."""
    delegations = targets.delegations
    if delegations is None or delegations.roles is None:
        delegations = targets.delegations = Delegations(keys={}, roles={})
    roles = dict(delegations.roles or {})
    roles[channel] = DelegatedRole(
        name=channel,
        keyids=sorted({key.keyid for key in keys}),
        threshold=threshold,
        terminating=True,
        paths=channel_paths(channel),
    )
    known = {**delegations.keys, **{key.keyid: key for key in keys}}
    used = {key_id for role in roles.values() for key_id in role.keyids}
    targets.delegations = Delegations(keys={key_id: known[key_id] for key_id in sorted(used)}, roles=roles)


def role_of(root: Root, targets: Targets, name: str) -> Role:
    """Return the keys and the threshold of a role.

    Raises:
        NoChannelError: there is no such role.
    """
    if name in TOP_LEVEL:
        return root.roles[name]
    try:
        return targets.get_delegated_role(name)
    except ValueError as error:
        raise NoChannelError(
            f"the repository has no channel {name!r}",
            details=f"channels: {', '.join(channels(targets)) or 'none'}",
            hint="`hostctl keys channel DIR NAME` makes a key for one, `hostctl repo init` adds it",
        ) from error


def replace_keys(root: Root, role: str, old: Sequence[str], new: Sequence[Key], threshold: int | None = None) -> None:
    """Take keys from a top-level role of ``root`` and give it others.

    Raises:
        UsageError: the role would have fewer keys than its threshold.
    """
    for key in new:
        root.add_key(key, role)
    for key_id in old:
        root.revoke_key(key_id, role)
    found = root.roles[role]
    found.threshold = threshold if threshold is not None else found.threshold
    if not 1 <= found.threshold <= len(found.keyids):
        raise UsageError(
            f"{role} would have {len(found.keyids)} keys, which cannot meet a threshold of {found.threshold}",
            hint="name as many new keys as old ones, or set --threshold",
        )
