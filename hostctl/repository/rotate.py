"""New keys for a role: of the top level by a new root, of a channel by new ``targets``; ``drafts`` has them signed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import Key
from tuf.api.metadata import Root, Targets

from hostctl.durable import write_file
from hostctl.errors import UsageError
from hostctl.repository import drafts, roles
from hostctl.repository.drafts import Draft, DraftError, DraftMetadata
from hostctl.repository.keyring import (
    CHANNEL_PREFIX,
    Keyring,
    load_private_key,
    load_public_key,
    write_private_key,
)
from hostctl.repository.metadata import encode, load, public, sign, signer
from hostctl.repository.roles import ROOT, TARGETS
from hostctl.repository.store import Store, locked
from hostctl.repository.stored import newest_root, require_root


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """Which keys of a role change."""

    role: str
    new: tuple[Path, ...] = ()
    """PEM files with new keys, public or private; none makes as many as are dropped."""
    drop: tuple[str, ...] = ()
    """Keys that go: their files or the beginnings of their ids; none drops all that the role has."""
    threshold: int | None = None
    """How many must sign; none leaves it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rotated:
    """What came of a change of keys."""

    draft: Draft
    made: tuple[Path, ...]
    """Files of new private keys."""
    dropped: tuple[str, ...]
    """Ids of the keys that go."""


def rotate(
    repository: Path, keyring: Keyring, change: Change, *, discard: bool = False, now: datetime | None = None
) -> Rotated:
    """Draft a change of keys, sign it with what is at hand, and put it into effect if that is enough.

    Args:
        repository: the folder.
        keyring: the keys at hand.
        change: what changes.
        discard: throw away a draft that waits.
        now: the present, UTC.

    Raises:
        UsageError: the role would have too few keys, or a key to drop is not one of its.
        NoChannelError: there is no such role.
        DraftError: another change waits for signatures.
        KeyFileError: a new key cannot be read.
        MissingKeyError, RepositoryBusyError, MetadataError: see :func:`hostctl.repository.offers.add`.
    """
    moment = now or datetime.now(UTC)
    with locked(repository):
        require_root(repository, keyring)
        store = Store.open(repository)
        role = roles.role_of(store.roles.root, store.roles.targets, change.role)
        dropped = _dropped(role.keyids, change.drop)
        given = tuple(load_public_key(path) for path in change.new)
        made = {} if given else _generate(keyring, change.role, len(dropped))
        keys = [*given, *(public(key.public_key()) for key in made.values())]
        if set(dropped) & {key.keyid for key in keys}:
            raise UsageError("a new key is one of those that go", hint="make a new key, or drop another one")
        kind = ROOT if change.role in roles.TOP_LEVEL else TARGETS
        draft = _draft(store, change, kept=[key_id for key_id in role.keyids if key_id not in dropped], keys=keys)
        drafts.require_none(repository, kind, discard=discard)
        for path, key in made.items():
            write_private_key(_free(path), key)
        both = {**keyring.signers, **{one.keyid: signer(key) for one, key in zip(keys, made.values(), strict=False)}}
        widened = Keyring(root=keyring.root, signers=both, channels=keyring.channels, folder=keyring.folder)
        draft.signed.expires = roles.expiry(kind, moment)
        drafts.add_signatures(draft, [both[one] for one in sorted(drafts.wanted(store, draft)) if one in both])
        settled = drafts.settle(store, widened, draft, moment)
        return Rotated(draft=settled, made=tuple(made), dropped=dropped)


def _dropped(key_ids: Sequence[str], named: Sequence[str]) -> tuple[str, ...]:
    if not named:
        return tuple(key_ids)
    found = []
    for text in named:
        wanted = load_public_key(Path(text)).keyid if Path(text).is_file() else text.lower()
        matching = [key_id for key_id in key_ids if len(wanted) >= 8 and key_id.startswith(wanted)]
        if len(matching) != 1:
            raise UsageError(
                f"{text} is none of the role's keys",
                details="\n".join(key_ids),
                hint="name a key file, or at least 8 digits of a key's id",
            )
        found += matching
    return tuple(dict.fromkeys(found))


def _generate(keyring: Keyring, role: str, count: int) -> Mapping[Path, Ed25519PrivateKey]:
    """Make keys and the names of their files; nothing is written."""
    if keyring.folder is None:
        raise UsageError("new keys need a folder", hint="pass --keys DIR, or name new keys with --new-key")
    folder = keyring.folder / "tuf"
    private = [Ed25519PrivateKey.generate() for _ in range(count)]
    if role == ROOT:
        taken = [path.stem.removeprefix("root-") for path in folder.glob("root-*.pem")]
        first = 1 + max((int(text) for text in taken if text.isdecimal()), default=0)
        return {folder / f"root-{first + number}.pem": key for number, key in enumerate(private)}
    names = [f"{CHANNEL_PREFIX}{role}" if role not in roles.TOP_LEVEL else role]
    names += [f"{names[0]}-{number}" for number in range(2, count + 1)]
    return {folder / f"{name}.pem": key for name, key in zip(names, private, strict=True)}


def _free(path: Path) -> Path:
    """Move a former key of this name aside and return the path."""
    if path.exists():
        former = public(load_private_key(path).public_key()).keyid
        path.rename(path.with_name(f"retired-{path.stem}-{former[:8]}.pem"))
    return path


def _draft(store: Store, change: Change, *, kept: Sequence[str], keys: Sequence[Key]) -> DraftMetadata:
    if change.role in roles.TOP_LEVEL:
        root = load(sign(store.roles.root, []), Root)
        before = root.signed.roles[change.role].keyids
        roles.replace_keys(root.signed, change.role, sorted(set(before) - set(kept)), keys, change.threshold)
        root.signed.version += 1
        return root
    targets = load(sign(store.roles.targets, []), Targets)
    role = targets.signed.get_delegated_role(change.role)
    known = [targets.signed.get_key(key_id) for key_id in kept]
    threshold = role.threshold if change.threshold is None else change.threshold
    roles.delegate(targets.signed, change.role, [*known, *keys], threshold)
    targets.signed.version += 1
    return targets


def sign_file(path: Path, key_files: Sequence[Path]) -> tuple[DraftMetadata, list[str]]:
    """Sign a draft that was carried here, in its place, and return it and the ids of the keys that signed now.

    Raises:
        DraftError: it is no draft.
        KeyFileError: a key cannot be read.
    """
    draft = drafts.read(path)
    added = drafts.add_signatures(draft, [signer(load_private_key(key)) for key in key_files])
    write_file(path, encode(draft))
    return draft, added


def sign_pending(
    repository: Path,
    keyring: Keyring | None,
    key_files: Sequence[Path],
    carried: Sequence[Path] = (),
    *,
    now: datetime | None = None,
) -> tuple[Draft, ...]:
    """Add signatures to the drafts of a repository, and put into effect what has enough.

    Args:
        repository: the folder.
        keyring: the keys at hand; a change that needs none but the signatures takes effect without.
        key_files: keys besides those.
        carried: drafts that were signed elsewhere, whose signatures are taken over.
        now: the present, UTC.

    Raises:
        DraftError: nothing waits, or a carried file is not what waits.
        KeyFileError: a key cannot be read.
        MissingKeyError, RepositoryBusyError, MetadataError: see :func:`hostctl.repository.offers.add`.
    """
    moment = now or datetime.now(UTC)
    extra = {one.public_key.keyid: one for one in (signer(load_private_key(path)) for path in key_files)}
    with locked(repository):
        if keyring is not None:
            require_root(repository, keyring)
        kinds = drafts.pending(repository)
        if not kinds:
            raise DraftError(
                f"nothing waits for signatures in {repository}", hint="`hostctl repo rotate` begins a change"
            )
        store = Store.open(repository)
        have = {**(keyring.signers if keyring is not None else {}), **extra}
        root = keyring.root if keyring is not None else newest_root(repository)
        ring = Keyring(root=root, signers=have, folder=keyring.folder if keyring is not None else None)
        settled = []
        for kind in kinds:
            draft = drafts.read(drafts.draft_path(repository, kind))
            for path in carried:
                if drafts.read(path).signed.type == kind:
                    drafts.merge(store, draft, path)
            counting = drafts.wanted(store, draft)
            drafts.add_signatures(draft, [one for key_id, one in have.items() if key_id in counting])
            settled.append(drafts.settle(store, ring, draft, moment))
        return tuple(settled)
