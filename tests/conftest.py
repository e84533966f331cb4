"""What all tests share: the folders' marks.

Fixtures and `require` come from `zkafka.testing.plugin`, as in anybody's test suite.
"""

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
MARKED_FOLDERS = ("integration", "chaos", "bench")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies under integration/, chaos/ and bench/ as such, so that no test forgets."""
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0] if item.path.is_relative_to(TESTS) else ""
        if folder in MARKED_FOLDERS:
            item.add_marker(folder)
