"""What is shown of a setting, and what an alteration makes of it."""

import pytest

from zkafka.config import BROKER_SETTINGS, TOPIC_SETTINGS, BrokerConfig, LogConfig
from zkafka.errors import ApiError, ErrorCode
from zkafka.server.config_entries import (
    Alteration,
    AlterOperation,
    BrokerValues,
    Source,
    Synonym,
    altered,
    check_broker_overrides,
    check_topic_overrides,
    describe_broker,
    describe_broker_defaults,
    describe_topic,
)

STATIC = {
    "zookeeper.connect": "zk:2181",
    "log.retention.hours": "1",
    "ssl.keystore.password": "hunter2",
    "sasl.jaas.config": "hunter2",
    "my.plugin": "hunter2",
}
STARTED = BrokerConfig.parse(STATIC)
BROKER = BrokerValues(
    static=STATIC,
    dynamic_default={"log.retention.ms": "5", "min.insync.replicas": "2"},
    dynamic_broker={"min.insync.replicas": "3"},
)


def topic_entries(overrides, broker=BROKER, keys=None):
    effective = LogConfig.from_broker_properties(broker.merged()).with_overrides(overrides)
    return {entry.key: entry for entry in describe_topic(overrides, broker, effective, keys)}


def broker_entries(keys=None, broker=BROKER):
    return {entry.key: entry for entry in describe_broker(broker, keys)}


# ------------------------------------------------------------------------------ describing


def test_all_topic_settings_are_described_with_text_and_type():
    entries = topic_entries({}, BrokerValues(static={}))
    assert list(entries) == list(TOPIC_SETTINGS)
    for key, entry in entries.items():
        assert entry.value == TOPIC_SETTINGS[key].default_text, key
        assert entry.source is Source.DEFAULT
        assert not entry.read_only
        assert not entry.is_sensitive
        assert entry.kind == TOPIC_SETTINGS[key].kind
        assert entry.documentation


def test_an_override_comes_before_every_place_of_the_broker():
    entry = topic_entries({"retention.ms": "9"})["retention.ms"]
    assert (entry.value, entry.source) == ("9", Source.TOPIC)
    assert entry.synonyms == (
        Synonym("retention.ms", "9", Source.TOPIC),
        Synonym("log.retention.ms", "5", Source.DYNAMIC_DEFAULT),
        Synonym("log.retention.hours", "1", Source.STATIC),
        Synonym("log.retention.hours", "168", Source.DEFAULT),
    )


@pytest.mark.parametrize(
    ("broker", "value", "source"),
    [
        (BROKER, "3", Source.DYNAMIC_BROKER),
        (BrokerValues(static={}, dynamic_default={"min.insync.replicas": "2"}), "2", 3),
        (BrokerValues(static={"min.insync.replicas": "4"}), "4", Source.STATIC),
        (BrokerValues(static={}), "1", Source.DEFAULT),
    ],
)
def test_the_most_special_place_wins(broker, value, source):
    entry = topic_entries({}, broker)["min.insync.replicas"]
    assert (entry.value, entry.source) == (value, source)


def test_a_coarse_unit_is_shown_in_the_topics_unit():
    entry = topic_entries({}, BrokerValues(static={"log.retention.hours": "1"}))["retention.ms"]
    assert (entry.value, entry.source) == ("3600000", Source.STATIC)


def test_unlimited_and_lists_are_written_as_kafka_writes_them():
    entries = topic_entries({"retention.ms": "-1", "cleanup.policy": "delete,compact"})
    assert entries["retention.ms"].value == "-1"
    assert entries["retention.bytes"].value == "-1"
    assert entries["cleanup.policy"].value == "delete,compact"


def test_a_setting_of_topics_alone_has_no_synonym_but_its_override():
    """As Apache Kafka 3.9 describes it."""
    key = "leader.replication.throttled.replicas"
    assert topic_entries({})[key].synonyms == ()
    assert topic_entries({})[key].source is Source.DEFAULT
    assert topic_entries({key: "*"})[key].synonyms == (Synonym(key, "*", Source.TOPIC),)


@pytest.mark.parametrize("keys", [["segment.ms", "nonsense", "retention.ms"], ["retention.ms"] * 2])
def test_only_the_keys_asked_for_are_described(keys):
    assert set(topic_entries({}, keys=keys)) == set(keys) - {"nonsense"}


def test_no_keys_asks_for_all():
    assert topic_entries({}, keys=[]).keys() == topic_entries({}, keys=None).keys()


def test_a_brokers_settings_say_where_they_come_from_and_what_can_be_altered():
    entries = broker_entries()
    assert set(BROKER_SETTINGS) <= set(entries)
    connect = entries["zookeeper.connect"]
    assert (connect.value, connect.source, connect.read_only) == ("zk:2181", Source.STATIC, True)
    replicas = entries["min.insync.replicas"]
    assert (replicas.value, replicas.source, replicas.read_only) == ("3", 2, False)
    assert [synonym.source for synonym in replicas.synonyms] == [2, 3, 5]
    unset = entries["log.retention.minutes"]
    assert (unset.value, unset.source, unset.read_only) == (None, Source.DEFAULT, True)


@pytest.mark.parametrize("key", ["ssl.keystore.password", "sasl.jaas.config", "my.plugin"])
def test_secrets_and_what_might_be_one_are_not_shown(key):
    entry = broker_entries()[key]
    assert entry.is_sensitive
    assert entry.value is None
    assert "hunter2" not in repr(entry)


def test_the_clusters_defaults_are_nothing_but_themselves():
    entries = {entry.key: entry for entry in describe_broker_defaults(BROKER, None)}
    assert set(entries) == {"log.retention.ms", "min.insync.replicas"}
    assert (entries["min.insync.replicas"].value, entries["min.insync.replicas"].source) == ("2", 3)


# ------------------------------------------------------------------------------ altering


@pytest.mark.parametrize(
    ("alteration", "result"),
    [
        (Alteration("retention.ms", "5"), {"cleanup.policy": "compact", "retention.ms": "5"}),
        (Alteration("cleanup.policy", None, AlterOperation.DELETE), {}),
        (Alteration("retention.ms", None, AlterOperation.DELETE), {"cleanup.policy": "compact"}),
        (
            Alteration("cleanup.policy", "delete,compact", AlterOperation.APPEND),
            {"cleanup.policy": "compact,delete"},
        ),
        (
            Alteration("cleanup.policy", "compact", AlterOperation.SUBTRACT),
            {"cleanup.policy": ""},
        ),
    ],
    ids=["set", "delete", "delete what is not there", "append", "subtract"],
)
def test_alterations_of_what_is_there(alteration, result):
    assert altered({"cleanup.policy": "compact"}, [alteration], TOPIC_SETTINGS) == result


def test_appending_begins_with_the_default():
    alteration = Alteration("cleanup.policy", "compact", AlterOperation.APPEND)
    assert altered({}, [alteration], TOPIC_SETTINGS) == {"cleanup.policy": "delete,compact"}


@pytest.mark.parametrize(
    ("alterations", "code"),
    [
        ([Alteration("a", "1"), Alteration("a", None, 1)], ErrorCode.INVALID_REQUEST),
        ([Alteration("retention.ms", None)], ErrorCode.INVALID_REQUEST),
        ([Alteration("cleanup.policy", None, 2)], ErrorCode.INVALID_REQUEST),
        ([Alteration("retention.ms", "1", 4)], ErrorCode.INVALID_REQUEST),
        ([Alteration("retention.ms", "1", -1)], ErrorCode.INVALID_REQUEST),
        ([Alteration("retention.ms", "1", AlterOperation.APPEND)], ErrorCode.INVALID_CONFIG),
        ([Alteration("nonsense", "1", AlterOperation.SUBTRACT)], ErrorCode.INVALID_CONFIG),
    ],
    ids=["twice", "no value", "no list", "operation 4", "operation -1", "append", "unknown"],
)
def test_malformed_alterations_are_refused(alterations, code):
    with pytest.raises(ApiError) as refused:
        altered({}, alterations, TOPIC_SETTINGS)
    assert refused.value.code is code


def test_a_topics_bad_value_is_an_invalid_config_that_says_what_is_allowed():
    with pytest.raises(ApiError, match=r"retention\.ms='x'.*whole number") as refused:
        check_topic_overrides({"retention.ms": "x"}, LogConfig())
    assert refused.value.code is ErrorCode.INVALID_CONFIG


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("num.io.threads", "4", "cannot be changed while"),
        ("log.retention.hours", "4", "cannot be changed while"),
        ("zookeeper.connect", "x", "cannot be changed while"),
        ("leader.replication.throttled.rate", "1", "never throttled"),
        ("listener.name.a.ssl.keystore.location", "/x", "no effect"),
        ("log.retention.ms", "0", "at least 1"),
        ("log.retention.ms", "soon", "whole number"),
        ("min.insync.replicas", "0", "from 1"),
    ],
)
def test_a_brokers_bad_alteration_is_an_invalid_request(key, text, message):
    with pytest.raises(ApiError, match=message) as refused:
        check_broker_overrides({key}, {key: text}, STARTED, STARTED)
    assert refused.value.code is ErrorCode.INVALID_REQUEST


def test_dynamic_and_unknown_keys_of_brokers_are_taken():
    overrides = {"log.retention.ms": "-1", "our.plugin": "x"}
    check_broker_overrides(overrides.keys(), overrides, STARTED, STARTED)


def test_a_static_key_that_was_there_before_is_not_held_against_the_caller():
    check_broker_overrides({"min.insync.replicas"}, {"num.io.threads": "4"}, STARTED, STARTED)


@pytest.mark.parametrize(
    ("now", "wanted"), [(1, 0), (1, 3), (4, 1), (4, 9), (5, 1), (5, 11), (0, 1)]
)
def test_cleaners_are_not_halved_or_doubled_at_once(now, wanted):
    current = BrokerConfig.parse(STATIC | {"log.cleaner.threads": str(now)})
    overrides = {"log.cleaner.threads": str(wanted)}
    with pytest.raises(ApiError, match=rf"log\.cleaner\.threads={wanted}.*from half") as refused:
        check_broker_overrides(overrides.keys(), overrides, STARTED, current)
    assert refused.value.code is ErrorCode.INVALID_REQUEST
    # What was there before is not held against whoever alters something else.
    check_broker_overrides({"log.cleaner.backoff.ms"}, overrides, STARTED, current)


@pytest.mark.parametrize(("now", "wanted"), [(1, 1), (1, 2), (4, 2), (4, 8), (5, 2), (5, 10)])
def test_as_far_as_that_they_go(now, wanted):
    current = BrokerConfig.parse(STATIC | {"log.cleaner.threads": str(now)})
    overrides = {"log.cleaner.threads": str(wanted)}
    check_broker_overrides(overrides.keys(), overrides, STARTED, current)


def test_the_cleaners_settings_are_held_against_each_other():
    overrides = {"log.cleaner.dedupe.buffer.size": "1048576"}
    with pytest.raises(ApiError, match=r"more than 1048576 for each") as refused:
        check_broker_overrides(overrides.keys(), overrides, STARTED, STARTED)
    assert refused.value.code is ErrorCode.INVALID_REQUEST
