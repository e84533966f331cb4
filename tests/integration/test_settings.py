"""Settings and producer ids through a real client: librdkafka's AdminClient and producer."""

import time

import pytest
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

pytestmark = pytest.mark.zkafka(brokers=1)

PATIENCE_S = 60
"""How long a busy machine may take for what is only waited for."""


@pytest.fixture
def bootstrap(zkafka_cluster):
    return zkafka_cluster.bootstrap


@pytest.fixture
def admin(bootstrap):
    return AdminClient({"bootstrap.servers": bootstrap})


def create(admin, name, **configs):
    settings = {key.replace("_", "."): value for key, value in configs.items()}
    topic = NewTopic(name, num_partitions=1, replication_factor=1, config=settings)
    admin.create_topics([topic])[name].result(PATIENCE_S)


def describe(admin, kind, name):
    resource = ConfigResource(kind, name)
    return admin.describe_configs([resource])[resource].result(PATIENCE_S)


def alter(admin, kind, name, *changes):
    entries = [ConfigEntry(k, v, incremental_operation=op) for k, v, op in changes]
    resource = ConfigResource(kind, name, incremental_configs=entries)
    admin.incremental_alter_configs([resource])[resource].result(PATIENCE_S)


def produce(bootstrap, topic, value, key=b"key", **settings):
    errors = []
    producer = Producer({"bootstrap.servers": bootstrap, **settings})
    producer.produce(topic, value, key, on_delivery=lambda error, _: errors.append(error))
    assert producer.flush(PATIENCE_S) == 0
    return errors[0]


def test_a_topics_settings_are_described_altered_and_obeyed(admin, bootstrap):
    create(admin, "limits", max_message_bytes="1000")
    found = describe(admin, ResourceType.TOPIC, "limits")
    assert (found["max.message.bytes"].value, found["max.message.bytes"].source) == ("1000", 1)
    assert (found["retention.ms"].value, found["retention.ms"].source) == ("604800000", 5)

    # The creation's setting holds from the first record on.
    assert produce(bootstrap, "limits", b"x" * 5000).code() == 10  # MESSAGE_TOO_LARGE
    alter(
        admin,
        ResourceType.TOPIC,
        "limits",
        ("max.message.bytes", "100000", AlterConfigOpType.SET),
        ("cleanup.policy", "compact", AlterConfigOpType.APPEND),
    )
    found = describe(admin, ResourceType.TOPIC, "limits")
    assert found["max.message.bytes"].value == "100000"
    assert set(found["cleanup.policy"].value.split(",")) == {"compact", "delete"}
    deadline = time.monotonic() + PATIENCE_S
    while produce(bootstrap, "limits", b"x" * 5000, **{"message.max.bytes": 100000}) is not None:
        assert time.monotonic() < deadline, "the alteration is not obeyed"
        time.sleep(0.1)
    # Compacted by now: what has no key could never be replaced.
    assert produce(bootstrap, "limits", b"x", None).code() == 87  # INVALID_RECORD


def test_what_is_refused_says_why(admin):
    create(admin, "refusing")
    with pytest.raises(KafkaException, match=r"retention\.ms='soon'"):
        alter(
            admin,
            ResourceType.TOPIC,
            "refusing",
            ("retention.ms", "soon", AlterConfigOpType.SET),
        )
    with pytest.raises(KafkaException, match="cannot be changed while"):
        alter(admin, ResourceType.BROKER, "1", ("num.io.threads", "9", AlterConfigOpType.SET))


def test_a_brokers_default_is_obeyed_by_topics_that_do_not_override_it(admin, bootstrap):
    create(admin, "following")
    alter(admin, ResourceType.BROKER, "1", ("message.max.bytes", "2000", AlterConfigOpType.SET))
    deadline = time.monotonic() + PATIENCE_S
    while produce(bootstrap, "following", b"x" * 5000) is None:
        assert time.monotonic() < deadline, "the default is not obeyed"
        time.sleep(0.1)
    found = describe(admin, ResourceType.TOPIC, "following")["max.message.bytes"]
    assert (found.value, found.source) == ("2000", 2)
    broker = describe(admin, ResourceType.BROKER, "1")
    assert (broker["message.max.bytes"].value, broker["message.max.bytes"].source) == ("2000", 2)
    assert broker["num.partitions"].is_read_only


def offsets(bootstrap, topic):
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "nobody"})
    try:
        place = TopicPartition(topic, 0, OFFSET_BEGINNING)
        consumer.assign([place])
        _, end = consumer.get_watermark_offsets(place, timeout=PATIENCE_S)
        found = []
        while not found or found[-1] < end - 1:
            message = consumer.poll(PATIENCE_S)
            assert message is not None
            assert message.error() is None
            found.append(message.offset())
        return found
    finally:
        consumer.close()


@pytest.mark.zkafka(brokers=1, config={"log.cleaner.backoff.ms": str(10**9)})
def test_the_cleaner_obeys_new_settings_without_a_restart(admin, bootstrap):
    """It looked once, when there was nothing, and would not look again for eleven days."""
    create(
        admin, "changing", cleanup_policy="compact", segment_bytes="1000",
        min_cleanable_dirty_ratio="0.01",
    )  # fmt: skip
    for number in range(30):
        assert produce(bootstrap, "changing", b"x" * 100, b"%d" % (number % 3)) is None
    assert offsets(bootstrap, "changing") == list(range(30))
    with pytest.raises(KafkaException, match="from half to double"):
        alter(admin, ResourceType.BROKER, "1", ("log.cleaner.threads", "3", AlterConfigOpType.SET))
    alter(
        admin, ResourceType.BROKER, "1",
        ("log.cleaner.threads", "2", AlterConfigOpType.SET),
        ("log.cleaner.backoff.ms", "100", AlterConfigOpType.SET),
    )  # fmt: skip
    described = describe(admin, ResourceType.BROKER, "1")["log.cleaner.backoff.ms"]
    assert (described.value, described.source, described.is_read_only) == ("100", 2, False)
    deadline = time.monotonic() + PATIENCE_S
    while len(left := offsets(bootstrap, "changing")) > 15:
        assert time.monotonic() < deadline, "the alteration is not obeyed"
    assert left[-1] == 29


def test_an_idempotent_producer_gets_its_id(admin, bootstrap):
    create(admin, "once")
    assert produce(bootstrap, "once", b"x", **{"enable.idempotence": True}) is None


def test_a_transactional_producer_is_told_at_once(bootstrap):
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": "t"})
    began = time.monotonic()
    with pytest.raises(KafkaException, match="transactions are not supported yet") as told:
        producer.init_transactions(120)
    assert told.value.args[0].fatal()
    assert time.monotonic() - began < 60
