"""How many documents are tried: `--hypothesis-profile=campaign` tries many more, drawn anew each time."""

import pytest

hypothesis = pytest.importorskip(
    "hypothesis", reason="property tests need hypothesis: pip install moelora[development]"
)

QUIET = [hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.filter_too_much]
hypothesis.settings.register_profile(
    "short", max_examples=120, derandomize=True, deadline=None, database=None, suppress_health_check=QUIET
)
hypothesis.settings.register_profile(
    "campaign", max_examples=4000, deadline=None, database=None, print_blob=True, suppress_health_check=QUIET
)


def pytest_configure(config):
    if not config.getoption("--hypothesis-profile", default=None):
        hypothesis.settings.load_profile("short")
