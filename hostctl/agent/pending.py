"""The marker of a generation that is being tried: on the disk from before it is in force until its health is known.

Whoever finds it after a crash knows what to go back to.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from hostctl import durable
from hostctl.agent import spare
from hostctl.layout import HostLayout


@dataclass(frozen=True, kw_only=True, slots=True)
class Pending:
    """A generation that is being tried, and the one to go back to; 0 is a machine without one."""

    former: int
    wanted: int
    booting: bool = False
    """Rendered during boot: the boot's health check judges it, not the next start of the agent."""
    down: tuple[str, ...] = ()
    """What was down before, of what changes; see :mod:`hostctl.agent.down`."""


def read(layout: HostLayout) -> Pending | None:
    """Return the generation that is being tried; none if everything is settled."""
    try:
        document = json.loads((layout.state / "pending").read_bytes())
        return Pending(
            former=int(document["former"]),
            wanted=int(document["wanted"]),
            booting=bool(document["booting"]),
            down=tuple(map(str, document.get("down", ()))),  # former releases wrote none
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return Pending(former=0, wanted=0)  # torn by no power cut of ours; treated as settled by whoever looks for it


def mark(layout: HostLayout, pending: Pending) -> None:
    """Have the marker on the disk, before the generation is put in force."""
    document = {
        "former": pending.former,
        "wanted": pending.wanted,
        "booting": pending.booting,
        "down": list(pending.down),
    }
    durable.write_file(layout.state / "pending", json.dumps(document).encode())


def settle(layout: HostLayout) -> None:
    """Forget the marker: the generation in force stays. Its copy comes before: who is cut off there does both again."""
    spare.keep(layout)
    (layout.state / "pending").unlink(missing_ok=True)
    durable.sync_directory(layout.state)
