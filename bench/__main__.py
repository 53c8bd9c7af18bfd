"""Runs one measurement, and says what is wrong when its conditions cannot be made: `python -m bench NAME`."""

from __future__ import annotations

import importlib
import sys

from hostctl.errors import HostctlError

if __name__ == "__main__":
    name = sys.argv.pop(1)
    try:
        code = importlib.import_module(f"bench.measure_{name}").main()
    except HostctlError as error:
        print(error.render(), file=sys.stderr)
        code = error.exit_code
    sys.exit(code)
