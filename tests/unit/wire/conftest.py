"""Hypothesis for the fuzz tests here: GT_FUZZ_EXAMPLES=50000 makes a long run of them."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "wire",
    max_examples=int(os.environ.get("GT_FUZZ_EXAMPLES", "100")),
    deadline=None,  # the machine may be busy
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("wire")
