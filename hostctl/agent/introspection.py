"""What the agent's interface says of itself: the XML that D-Bus tools read, made from its methods."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape  # that of xml.sax loads an HTTP client
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hostctl.agent.bus import Method

DOCUMENTATION = "org.gtk.GDBus.DocString"
PROGRESS = "A line on what a call is doing, to its caller only; the last comes before the answer."
HEADER = '<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"\n'
DTD = '"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">\n'


def document(interface: str, methods: Sequence[Method]) -> str:
    """Return the XML that Introspect answers."""
    lines = ["<node>", f' <interface name="{interface}">']
    for method in methods:
        lines.append(f'  <method name="{method.name}">')
        who = "For root and users with sudo." if method.root_only else "For everybody."
        words = " ".join((method.handler.__doc__ or "").split())
        lines.append(f'   <annotation name="{DOCUMENTATION}" value="{escape(f"{words} {who}".strip())}"/>')
        for index, kind in enumerate(method.signature):
            name = f' name="{method.takes[index]}"' if index < len(method.takes) else ""
            lines.append(f'   <arg direction="in" type="{kind}"{name}/>')
        lines += ['   <arg direction="out" type="s" name="json"/>', "  </method>"]
    lines += ['  <signal name="Progress">', f'   <annotation name="{DOCUMENTATION}" value="{PROGRESS}"/>']
    lines += ['   <arg type="s" name="text"/>', "  </signal>", " </interface>"]
    return HEADER + DTD + "\n".join([*lines, "</node>"]) + "\n"
