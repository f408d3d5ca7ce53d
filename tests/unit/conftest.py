"""How Hypothesis tries its examples: however long one takes, for a busy machine is no failure.

In continuous integration they are the same ones each time, as in Hypothesis's own profile for it:
there a failure is to be of the change, and new examples are found where somebody sees them.
"""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "patient",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
)
settings.load_profile("patient")
