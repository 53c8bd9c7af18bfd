"""Changes that offline keys must sign: a draft collects signatures until there are enough, then it takes effect.

A draft is the next version of ``root`` or of ``targets``, kept in ``drafts/`` of the repository, where no host looks.
It can be carried to where a key is kept and signed there, with nothing else at hand. Taking effect is one commit: the
roles whose keys change are first signed by old and new keys, so that a host with the old root and one with the new root
both find what they trust at any moment; the new root appears last.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, Root, Targets

from hostctl.durable import write_file
from hostctl.errors import HostctlError
from hostctl.repository import roles
from hostctl.repository.keyring import ROOT_FILE, Keyring
from hostctl.repository.metadata import copy_signatures, encode, load, missing_signatures
from hostctl.repository.roles import ROOT, TARGETS
from hostctl.repository.store import Store, make_folder
from hostctl.repository.stored import newest_root

FOLDER = "drafts"
KINDS = (ROOT, TARGETS)
MAX_DRAFT = 1 << 20


DraftMetadata = Metadata[Root] | Metadata[Targets]


class DraftError(HostctlError):
    """A draft cannot be used."""

    id = "draft"


@dataclass(frozen=True, kw_only=True, slots=True)
class Lack:
    """Signatures that a draft needs before it takes effect."""

    count: int
    role: str
    """Whose keys must sign."""
    version: int
    """Of the root that names these keys; the draft's own version when it is the new keys that must sign."""
    key_ids: tuple[str, ...]
    """The keys that can."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """A change of keys that waits for signatures, or has just taken effect."""

    role: str
    version: int
    path: Path
    lacking: tuple[Lack, ...]

    @property
    def done(self) -> bool:
        """Tell whether it has all its signatures, which puts it into effect."""
        return not self.lacking


def draft_path(repository: Path, kind: str) -> Path:
    """Return where a draft of ``root`` or ``targets`` lies."""
    return repository / FOLDER / f"{kind}.json"


def pending(repository: Path) -> tuple[str, ...]:
    """Return the kinds of which there is a draft."""
    return tuple(kind for kind in KINDS if draft_path(repository, kind).exists())


def require_none(repository: Path, kind: str, *, discard: bool) -> None:
    """Make place for a draft.

    Raises:
        DraftError: there is one, and it is not to be thrown away.
    """
    path = draft_path(repository, kind)
    if path.exists() and not discard:
        raise DraftError(
            f"another change of keys waits for signatures in {path}",
            hint="sign it with `hostctl repo sign`, or throw it away with --discard",
        )
    path.unlink(missing_ok=True)


def read(path: Path) -> DraftMetadata:
    """Read a draft.

    Raises:
        DraftError: it cannot be read or is none.
    """
    try:
        data = path.read_bytes()[: MAX_DRAFT + 1]
    except OSError as error:
        raise DraftError(f"cannot read {path}", details=str(error)) from error
    if len(data) > MAX_DRAFT:
        raise DraftError(f"{path} is too long for a draft")
    if b'"_type":"targets"' in data:
        return load(data, Targets)
    return load(data, Root)


def save(repository: Path, draft: DraftMetadata) -> Path:
    """Write a draft to its place."""
    path = draft_path(repository, draft.signed.type)
    make_folder(path.parent)
    write_file(path, encode(draft))
    return path


def add_signatures(draft: DraftMetadata, signers: Iterable[Signer]) -> list[str]:
    """Sign a draft by keys that have not signed it, and return their ids."""
    added = []
    for one in signers:
        if one.public_key.keyid not in draft.signatures:
            draft.sign(one, append=True)
            added.append(one.public_key.keyid)
    return added


def wanted(store: Store, draft: DraftMetadata) -> set[str]:
    """Return the ids of all keys whose signatures count for a draft."""
    named = {*store.roles.root.roles[draft.signed.type].keyids}
    if isinstance(draft.signed, Root):
        named |= {*draft.signed.roles[ROOT].keyids}
    return named


def lacking(store: Store, draft: DraftMetadata) -> tuple[Lack, ...]:
    """Return what a draft needs before it takes effect."""
    role, present = draft.signed.type, store.roles.root
    delegators = [present, draft.signed] if isinstance(draft.signed, Root) else [present]
    found = []
    for delegator in delegators:
        count, key_ids = missing_signatures(draft, delegator, role)
        if count:
            found.append(Lack(count=count, role=role, version=delegator.version, key_ids=tuple(key_ids)))
    return tuple(found)


def merge(store: Store, draft: DraftMetadata, signed: Path) -> list[str]:
    """Take over the signatures that count from a file that was signed elsewhere, and return by whom.

    Raises:
        DraftError, MetadataError: the file is not this draft.
    """
    return copy_signatures(read(signed), draft, wanted(store, draft))


def settle(store: Store, keyring: Keyring, draft: DraftMetadata, now: datetime) -> Draft:
    """Save a draft, or put it into effect when it has all its signatures; the caller holds the lock.

    Raises:
        DraftError: the repository has changed since the draft was made.
        MissingKeyError: a role that gets new keys cannot be signed by them here; the draft stays.
    """
    role, version = draft.signed.type, draft.signed.version
    present = store.roles.by_name(role).version
    path = save(store.path, draft)
    if role == ROOT and version == present and encode(draft) == newest_root(store.path):
        # A run that was cut off after it had written the new root.
        _trust(keyring, encode(draft))
        path.unlink()
        return Draft(role=role, version=version, path=path, lacking=())
    if version != present + 1:
        raise DraftError(
            f"the draft is version {version} of {role}, but the repository has version {present} now",
            hint="start the change again with --discard",
        )
    lacks = lacking(store, draft)
    if not lacks:
        if isinstance(draft.signed, Root):
            _new_root(store, keyring, encode(draft), draft.signed, now)
        else:
            _new_targets(store, keyring, encode(draft), draft.signed, now)
        path.unlink()
    return Draft(role=role, version=version, path=path, lacking=lacks)


def _new_root(store: Store, keyring: Keyring, data: bytes, root: Root, now: datetime) -> None:
    before = store.roles.root
    changed = [name for name in roles.TOP_LEVEL[1:] if before.roles[name] != root.roles[name]]
    for name in changed:
        store.touch(name)
    if changed:
        store.commit(keyring, now, following=root)
    write_file(store.path / f"metadata/{root.version}.root.json", data)
    store.roles.root = root
    _trust(keyring, data)


def _trust(keyring: Keyring, root: bytes) -> None:
    """Have what is built from now on trust the new root from its first boot."""
    if keyring.folder is not None:
        write_file(keyring.folder / ROOT_FILE, root)


def _new_targets(store: Store, keyring: Keyring, data: bytes, targets: Targets, now: datetime) -> None:
    before = store.roles.targets
    store.adopt_targets(targets, data)
    for channel in roles.channels(targets):
        if channel not in store.roles.channels:
            store.add_channel(channel)
        elif before.get_delegated_role(channel) != targets.get_delegated_role(channel):
            store.touch(channel)
    store.commit(keyring, now)


def describe(draft: DraftMetadata) -> Sequence[tuple[str, int, tuple[str, ...]]]:
    """Return the roles that a draft names keys for: name, threshold, key ids. What an offline signer should see."""
    if isinstance(draft.signed, Root):
        return [(name, role.threshold, tuple(sorted(role.keyids))) for name, role in draft.signed.roles.items()]
    delegations = draft.signed.delegations
    named = delegations.roles if delegations is not None and delegations.roles is not None else {}
    return [(f"channel {name}", role.threshold, tuple(sorted(role.keyids))) for name, role in named.items()]
