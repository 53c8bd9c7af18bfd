"""``hostctl metrics``: the host's metrics for Prometheus, printed once, or served on systemd's socket."""

from __future__ import annotations

import argparse
import os

from hostctl.agent import metrics
from hostctl.agent.machine import SystemdMachine
from hostctl.layout import HostLayout

EXAMPLES = """examples:
  hostctl metrics
  curl http://127.0.0.1:9600/metrics      with `metrics: {listen: "127.0.0.1:9600"}` in host.yaml

Nothing is resident: systemd holds the port, starts this for a scrape, and it ends when nobody asks for a minute.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--serve", action="store_true", help="what hostctl-metrics.service runs")


def run(arguments: argparse.Namespace) -> int:
    """Print or serve."""
    layout = HostLayout()
    machine = SystemdMachine(layout)

    def page() -> str:
        return metrics.render(metrics.collect(layout, machine))

    if arguments.serve:
        from hostctl.agent import metrics_server  # noqa: PLC0415 - only for the service

        listening = metrics_server.inherited(dict(os.environ), os.getpid())
        metrics_server.Server(listening, page).until_idle()
    else:
        print(page(), end="")
    return 0
