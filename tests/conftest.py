"""What all tests share."""

from hypothesis import settings

# How long one example takes says more about the machine's load than about the code.
settings.register_profile("hostctl", deadline=None)
settings.load_profile("hostctl")
