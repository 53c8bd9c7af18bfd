"""What a pass over the networks loads of pyroute2."""

from __future__ import annotations

import subprocess
import sys


def printed(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_only_what_talks_to_rtnetlink_is_loaded() -> None:
    code = "import sys, hostctl.network.links; print(*(name in sys.modules for name in %r))"
    assert (
        printed(code % (("pyroute2.iproute", "pyroute2.ndb", "pyroute2.ipdb", "sqlite3"),)) == "True False False False"
    )


def test_the_whole_package_is_there_for_others() -> None:
    same = "import pyroute2; print(pyroute2.IPRoute is IPRoute, 'pyroute2.ndb' in sys.modules)"
    assert printed(f"import sys; from hostctl.network.rtnetlink import IPRoute; {same}") == "True True"
    assert printed(f"import sys, pyroute2; from hostctl.network.rtnetlink import IPRoute; {same}") == "True True"


def test_what_the_package_does_not_define_is_an_error() -> None:
    code = (
        "import hostctl.network.rtnetlink, pyroute2; print(hasattr(pyroute2, 'nothing'), hasattr(pyroute2, 'nothing'))"
    )
    assert printed(code) == "False False"
