"""``hostctl apply``: through the agent; during boot, when there is no bus to ask, by itself."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from hostctl.agent.outcome import Outcome
from hostctl.cli.plan import read
from hostctl.config.load import parse_host
from hostctl.errors import UsageError
from hostctl.layout import HostLayout
from hostctl.progress import Progress

CREDENTIAL = "hostctl.host"

EXAMPLES = """examples:
  hostctl apply host.yaml
  hostctl apply - < host.yaml
  hostctl plan host.yaml      shows first what it would do

It ends with 0 when the declaration is in force and healthy, with 75 when another change is under way or a former one
could not be taken back yet, and otherwise with the former generation in force again.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("declaration", nargs="?", help="host.yaml, or - for standard input")
    what.add_argument("--first-boot", action="store_true", help="apply the credential hostctl.host, at boot")
    what.add_argument(
        "--withheld", action="store_true", help="apply with its workloads what a boot had to put in force without them"
    )
    what.add_argument("--rerender", action="store_true", help="render the declaration in force anew, at boot")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def first_boot_declaration(layout: HostLayout) -> tuple[str, str] | None:
    """Return the declaration that the machine was given with its first boot; none when it has a generation already.

    Raises:
        UsageError: it was given none.
    """
    if layout.current.is_symlink():
        return None
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    path = Path(folder, CREDENTIAL)
    if not folder or not path.is_file():
        raise UsageError(
            f"there is no credential {CREDENTIAL}",
            hint="give the machine its host.yaml as a system credential (systemd.system-credentials(7))",
        )
    return path.read_text(encoding="utf-8"), f"credential {CREDENTIAL}"


def _at_boot(source: tuple[str, str] | None, layout: HostLayout, progress: Progress) -> Outcome | None:
    """Apply without the agent: during boot nothing runs yet, and the boot's health check judges."""
    from hostctl.agent import apply as transaction  # noqa: PLC0415 - only at boot
    from hostctl.agent import service  # noqa: PLC0415 - as above

    return (
        transaction.apply(*source, service.context(layout, notify=progress.line, booting=True, withhold=True))
        if source
        else None
    )


def _rerender(layout: HostLayout, progress: Progress) -> Outcome | None:
    """Render the declaration in force anew, as above."""
    from hostctl.agent import boot_health, older, service  # noqa: PLC0415 - only at boot

    context = service.context(layout, notify=progress.line, booting=True, withhold=True)
    return older.rerender(context, on_trial=lambda: boot_health.tries() > 0)


def text(outcome: Outcome) -> str:
    """Return what a terminal shows."""
    lines = [str(action) for action in outcome.actions]
    lines += [f"note: {note}" for note in outcome.notes]
    if outcome.actions:
        lines.append(f"generation {outcome.generation} is in force")
    else:
        lines.append(f"nothing to change, generation {outcome.generation} stays in force")
    return "\n".join(lines)


def document(outcome: Outcome) -> str:
    """Return the outcome as JSON."""
    from hostctl.agent.service import outcome_document  # noqa: PLC0415 - only for --json

    return json.dumps(outcome_document(outcome), indent=1)


def run(arguments: argparse.Namespace) -> int:
    """Apply."""
    layout, progress = HostLayout(), Progress(quiet=arguments.json)
    if arguments.first_boot:
        outcome = _at_boot(first_boot_declaration(layout), layout, progress)
    elif arguments.withheld:
        from hostctl.agent import service, withheld  # noqa: PLC0415 - only after such a boot

        outcome = withheld.complete(service.context(layout, notify=progress.line, booting=True))
    elif arguments.rerender:
        outcome = _rerender(layout, progress)
    else:
        from hostctl.agent import client  # noqa: PLC0415 - not needed at boot

        source = read(arguments.declaration)
        parse_host(*source)  # so that mistakes show before anything is asked of the agent
        outcome = client.apply(*source, progress.line)
    if outcome is not None:
        print(document(outcome) if arguments.json else text(outcome))
    return 0
