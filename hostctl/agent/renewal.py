"""Renews the images of workloads that declare ``auto_update``: looks their tags up again and applies what is new.

The declaration stays as it is; only the pinned digest changes, by the same transaction as any change, one workload at a
time. An image with which its own workload did not become healthy in time is to blame: it is remembered and not tried
again until the tag moves on. What could not be looked up or loaded, and what failed by anything else, as another
workload or a full disk, is tried again as if nothing had been.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from hostctl import durable
from hostctl.agent import event_log, generation, parsed
from hostctl.agent.apply import ApplyError
from hostctl.agent.exclusive import BusyError
from hostctl.agent.generation import Pin, Renewed, Stored
from hostctl.agent.outcome import Outcome
from hostctl.agent.plan import short
from hostctl.config.values import ImageReference
from hostctl.errors import EXIT_BUSY, EXIT_UNAVAILABLE, HostctlError
from hostctl.image.room import ImageStoreError
from hostctl.layout import HostLayout
from hostctl.update import history

Result = Literal["current", "new", "refused", "unknown", "renewed", "failed"]
"""current: the tag stands for what runs; new: for something else; refused: for what has failed already; unknown: the
registry could not say, or did not give it, or something else kept it from being judged; renewed, failed: what came of
something new."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """An image that was taken back, of one workload."""

    reference: str
    digest: str
    time: str
    cause: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Renewal:
    """What there is to say of one workload's image."""

    workload: str
    reference: str
    digest: str
    """Of the image that runs."""
    found: str
    """What the tag stands for now; empty if nobody knows."""
    result: Result
    cause: str = ""


LookUp = Callable[[ImageReference], str]
"""Returns the digest that a name stands for now."""
Apply = Callable[[Stored, Renewed], Outcome]
"""Applies the declaration of the generation in force with other images."""


def judge(workload: str, pin: Pin, found: str, refusal: Refusal | None) -> Renewal:
    """Decide what the digest that a tag stands for means to a workload."""
    result: Result = "current" if found == pin.digest else "new"
    cause = ""
    if result == "new" and refusal is not None and (refusal.reference, refusal.digest) == (pin.reference, found):
        result, cause = "refused", f"{refusal.time}: {refusal.cause}"
    return Renewal(
        workload=workload, reference=pin.reference, digest=pin.digest, found=found, result=result, cause=cause
    )


def still_refused(refusals: Mapping[str, Refusal], looked: tuple[Renewal, ...]) -> dict[str, Refusal]:
    """Return what is to be remembered on: not of a tag that has moved on, nor of a workload that is not looked at."""
    unsure = {each.workload for each in looked if each.result in ("refused", "unknown")}
    return {name: refusal for name, refusal in refusals.items() if name in unsure}


def read(layout: HostLayout) -> dict[str, Refusal]:
    """Return the images that were taken back, by workload; none if that cannot be read."""
    try:
        document = json.loads(layout.refused_images.read_bytes())
        return {
            str(name): Refusal(**{key: str(value) for key, value in each.items()}) for name, each in document.items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write(layout: HostLayout, refusals: Mapping[str, Refusal]) -> None:
    if refusals != read(layout):
        data = json.dumps({name: asdict(each) for name, each in refusals.items()}, indent=1, sort_keys=True)
        durable.write_file(layout.refused_images, data.encode() + b"\n")


def _blames(error: HostctlError, workload: str) -> bool:
    """Tell whether a workload's image is to blame, and not the moment: a registry, a full disk, another workload."""
    if isinstance(error, ApplyError):
        return any((each.kind, each.name) == ("workload", workload) for each in error.late)
    return error.exit_code not in (EXIT_BUSY, EXIT_UNAVAILABLE) and not isinstance(error, ImageStoreError)


@dataclass(frozen=True, kw_only=True, slots=True)
class Renewer:
    """Looks tags up and renews, on one host."""

    layout: HostLayout
    look_up: LookUp
    apply: Apply
    release: str
    notify: Callable[[str], None] = lambda text: None

    def look(self) -> tuple[Renewal, ...]:
        """Return what there is to say of every workload that declares it; changes nothing."""
        stored = generation.current(self.layout)
        if stored is None:
            return ()
        refusals, known = read(self.layout), _Known(self.look_up, self.notify)
        declared = parsed.declaration(stored).workloads
        return tuple(
            self._look(str(name), workload.image, stored.record.images[str(name)], refusals.get(str(name)), known)
            for name, workload in declared.items()
            if workload.auto_update and str(name) in stored.record.images
        )

    def _look(self, name: str, reference: ImageReference, pin: Pin, refusal: Refusal | None, known: _Known) -> Renewal:
        try:
            return judge(name, pin, known(reference), refusal)
        except HostctlError as error:
            return Renewal(
                workload=name,
                reference=pin.reference,
                digest=pin.digest,
                found="",
                result="unknown",
                cause=_said(error),
            )

    def run(self) -> tuple[Renewal, ...]:
        """Renew what is new, one workload after the other; return what came of it.

        Raises:
            BusyError: another change is under way, or came between.
        """
        looked = self.look()
        _write(self.layout, still_refused(read(self.layout), looked))
        return tuple(self._renew(each) if each.result == "new" else each for each in looked)

    def _renew(self, wanted: Renewal) -> Renewal:
        stored = generation.current(self.layout)
        if stored is None or stored.record.images.get(wanted.workload) != _pin(wanted, wanted.digest):
            raise BusyError(f"workload {wanted.workload} was changed meanwhile", hint="try again")
        pins = {wanted.workload: _pin(wanted, wanted.found)}
        step = f"{wanted.reference} {short(wanted.digest)} → {short(wanted.found)}"
        self.notify(f"renewing workload {wanted.workload}: {step}")
        try:
            outcome = self.apply(stored, Renewed(generation=stored.record.number, pins=pins))
        except BusyError:
            raise
        except HostctlError as error:
            return self._failed(wanted, step, error)
        self._note(history.RENEWED, wanted, f"workload {wanted.workload}: {step}, generation {outcome.generation}")
        return replace(wanted, result="renewed", cause=f"generation {outcome.generation}")

    def _failed(self, wanted: Renewal, step: str, error: HostctlError) -> Renewal:
        cause = _said(error)
        if not _blames(error, wanted.workload):
            return replace(wanted, result="unknown", cause=cause)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        refusal = Refusal(reference=wanted.reference, digest=wanted.found, time=now, cause=cause)
        _write(self.layout, {**read(self.layout), wanted.workload: refusal})
        self._note(history.NOT_RENEWED, wanted, f"workload {wanted.workload}: {step}: {cause}")
        return replace(wanted, result="failed", cause=cause)

    def _note(self, event: str, wanted: Renewal, cause: str) -> None:
        """Tell of it in the history and as an event."""
        history.append(self.layout.state / "history.jsonl", event, self.release or "-", cause)
        event_log.write(event, wanted.workload, image=wanted.reference, digest=wanted.found, former=wanted.digest)


class _Known:
    """Asks for each name once."""

    def __init__(self, look_up: LookUp, notify: Callable[[str], None]) -> None:
        self._look_up = look_up
        self._notify = notify
        self._found: dict[str, str | HostctlError] = {}

    def __call__(self, reference: ImageReference) -> str:
        name = str(reference)
        if name not in self._found:
            self._notify(f"looking {name} up")
            try:
                self._found[name] = self._look_up(reference)
            except HostctlError as error:
                self._found[name] = error
        found = self._found[name]
        if isinstance(found, HostctlError):
            raise found
        return found


def _pin(wanted: Renewal, digest: str) -> Pin:
    return Pin(reference=wanted.reference, digest=digest)


def _said(error: HostctlError) -> str:
    """Return an error as one line."""
    return f"{error.brief}: {error.details}".replace("\n", " ") if error.details else error.brief
