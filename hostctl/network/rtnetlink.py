"""What is used of pyroute2: its sockets and messages of rtnetlink(7), for its versions 0.7 (Debian 13) and 0.9.

The package's own ``__init__`` loads all that it can do (packet filters, wireless, a database of links, remote hosts),
which takes as long as everything else that a pass over the networks loads. So its modules are imported without that
being run; it is run as soon as anybody asks the package itself for something. Only :mod:`hostctl.network.links` and
:mod:`hostctl.network.messages` may import this, and nothing else may import pyroute2.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _without_init(name: str) -> Iterator[None]:
    """Let a package's modules be imported without its ``__init__``, which is run when what it defines is asked for."""
    found = importlib.util.find_spec(name)
    if found is None or found.loader is None or name in sys.modules:
        yield
        return
    package = sys.modules[name] = importlib.util.module_from_spec(found)
    run = found.loader.exec_module
    try:
        yield
    except ImportError:
        del sys.modules[name]
        raise

    def complete(attribute: str) -> object:
        del package.__dict__["__getattr__"]
        run(package)
        return getattr(package, attribute)

    package.__dict__["__getattr__"] = complete  # PEP 562


with _without_init("pyroute2"):
    from pyroute2.iproute.linux import IPBatch, IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

__all__ = ["IPBatch", "IPRoute", "NetlinkError"]
