"""Tests of DLBA; the folders mirror dlba/.

A busy machine is slow, and no fault of a test: hypothesis times neither an example nor how long it
takes to make one.
"""

from hypothesis import HealthCheck, settings

settings.register_profile("dlba", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("dlba")
