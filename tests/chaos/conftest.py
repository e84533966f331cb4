"""What the chaos tests need of a machine."""

import pytest

from zkafka.testing.plugin import require_module, require_zookeeper


@pytest.fixture(autouse=True)
def _tools() -> None:
    require_zookeeper()
    require_module("confluent_kafka")
