"""What all tests share: the folders' marks.

Fixtures and `require` come from `zkafka.testing.plugin`, as in anybody's test suite.
"""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

TESTS = Path(__file__).parent
MARKED_FOLDERS = ("integration", "chaos", "bench")


# How long an example takes is the machine's business, and what else it does meanwhile.
settings.register_profile("zkafka", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("zkafka")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies under integration/, chaos/ and bench/ as such, so that no test forgets."""
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0] if item.path.is_relative_to(TESTS) else ""
        if folder in MARKED_FOLDERS:
            item.add_marker(folder)
