"""Process entry: the only place that prints an error and chooses an exit code."""

import sys

from hostctl.cli.main import main


def run() -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    run()
