"""Settings common to all tests."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from selenium.webdriver import Chrome

from tests.browser import open_chromium

# Time limits would fail on a busy machine, not on a fault.
settings.register_profile("zephyra", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("zephyra")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chrome]:
    """One browser for all tests of the console; each opens the page anew."""
    with open_chromium() as driver:
        yield driver
