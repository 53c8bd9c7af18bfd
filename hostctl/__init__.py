"""hostctl: compose, run and update hosts that cannot drift."""

__version__ = "0.1.0"
