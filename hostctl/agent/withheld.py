"""Workloads that a boot leaves out because their images are not on the host, until they are.

A host has to be reachable before it can pull: its users, keys and links come with a generation, and whoever gives it a
registry's password has to get in. So a boot that has no whole generation pulls nothing. If images lack, the declaration
is put in force without its workloads. The generation keeps the text as it was written, and its record says so;
``hostctl-withheld.service`` applies that text until it is in force whole, or something else is.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from hostctl import durable
from hostctl.agent import generation
from hostctl.agent.generation import Stored
from hostctl.errors import HostctlError
from hostctl.layout import HostLayout

if TYPE_CHECKING:
    from hostctl.agent.apply import Context
    from hostctl.agent.outcome import Outcome

UNIT = "hostctl-withheld.service"
FIRST_BOOT_UNIT = "hostctl-firstboot.service"
NOT_YET = "they are not on this host yet"


def note(layout: HostLayout, reason: str) -> None:
    """Remember for this boot that workloads were withheld in it, and why they still are."""
    layout.withheld.parent.mkdir(parents=True, exist_ok=True)
    durable.write_file(layout.withheld, f"{reason}\n".encode())


def of_this_boot(layout: HostLayout) -> bool:
    """Tell whether workloads were withheld in this boot, even if they are not any more."""
    return layout.withheld.exists()


def reason(layout: HostLayout) -> str:
    """Return in one line what the workloads wait for."""
    said = layout.withheld.read_text(encoding="utf-8").strip() if of_this_boot(layout) else NOT_YET
    return f"the workloads wait for their images, which are tried again by themselves: {said}"


def problems(layout: HostLayout, stored: Stored | None) -> tuple[str, ...]:
    """Return what of the declaration does not hold, for everybody to read.

    Args:
        layout: the machine.
        stored: the generation in force, if there is one.
    """
    if stored is not None:
        return (reason(layout),) if stored.record.withheld else ()
    with suppress(PermissionError):  # only root sees it
        if layout.given_declaration.is_file():
            return (f"the declaration is not in force: journalctl -u {FIRST_BOOT_UNIT}",)
    return ()


def complete(context: Context) -> Outcome | None:
    """Apply the whole declaration of a generation whose workloads are withheld; if there is none, do nothing.

    As at boot, what is started is not waited for, and nothing but a lack of images keeps it from being in force: the
    boot's health check judges it.

    Raises:
        HostctlError: it is still withheld, which is noted with the reason.
    """
    from hostctl.agent import apply as transaction  # noqa: PLC0415 - `hostctl status` needs none of it, start-up counts

    stored = generation.current(context.layout)
    if stored is None or not stored.record.withheld:
        return None
    try:
        name = f"generation {stored.record.number}"
        return transaction.apply(stored.declaration, name, context, base=stored.record.number)
    except HostctlError as error:
        first = error.details.partition("\n")[0]
        note(context.layout, f"{error.brief}: {first}" if first else error.brief)
        raise
