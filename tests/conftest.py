"""Settings common to all tests."""

from hypothesis import HealthCheck, settings

# Time limits would fail on a busy machine, not on a fault.
settings.register_profile("zephyra", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("zephyra")
