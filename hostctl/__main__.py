"""Process entry: the only place that chooses an exit code, and that knows when nobody reads what is printed."""

import os
import sys

from hostctl.cli.main import main
from hostctl.errors import EXIT_FAILED


def run() -> None:
    """Run the command line and leave with its exit code.

    Where a reader left before the end, as ``head`` does, the rest is lost on purpose: that is told by the code alone.
    """
    stdout = sys.__stdout__  # none where a caller has closed it
    try:
        try:
            code = main(sys.argv[1:])
        finally:  # --help leaves by an exception
            if stdout is not None:
                stdout.flush()
    except BrokenPipeError:
        if stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())  # Python flushes once more at its end
        code = EXIT_FAILED
    sys.exit(code)


if __name__ == "__main__":
    run()
