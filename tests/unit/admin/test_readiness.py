import json
from types import SimpleNamespace

import pytest

from zkafka.admin.readiness import healthz, missing, readyz
from zkafka.errors import StorageError
from zkafka.protocol.messages.update_metadata import UpdateMetadataBroker, UpdateMetadataRequest
from zkafka.server.metadata import MetadataCache


@pytest.fixture
def parts():
    """A broker that is ready."""
    made = SimpleNamespace(
        broker_id=1,
        broker_epoch=lambda: 5,
        metadata=MetadataCache(),
        log_dirs=[SimpleNamespace(offline=None)],
    )
    counts(made, 1)
    return made


def counts(parts, *brokers):
    live = [UpdateMetadataBroker(id=b) for b in brokers]
    parts.metadata.apply(UpdateMetadataRequest(controller_epoch=1, live_brokers=live))


async def test_a_ready_broker_lacks_nothing(parts):
    assert missing(parts) == {}
    page = await readyz(parts)
    assert (page.status, json.loads(page.body)) == (200, {"ready": True, "missing": {}})


async def test_a_broker_that_is_not_ready_says_why(parts):
    parts.broker_epoch = lambda: -1
    parts.metadata = MetadataCache()
    parts.log_dirs.append(SimpleNamespace(offline=StorageError("disk full", "/data")))
    page = await readyz(parts)
    said = json.loads(page.body)
    assert (page.status, said["ready"]) == (503, False)
    assert sorted(said["missing"]) == ["log_dirs", "metadata", "registered"]
    assert "disk full" in said["missing"]["log_dirs"]


def test_a_broker_the_controller_does_not_count_is_not_ready(parts):
    counts(parts, 2, 3)
    assert list(missing(parts)) == ["metadata"]


async def test_whoever_answers_is_alive():
    assert (await healthz()).status == 200
