"""The settings: Kafka's defaults by a table of our own, parsing, precedence, refusals."""

import attrs
import pytest

from zkafka.config import (
    BROKER_SETTINGS,
    LOG_DEFAULT_SETTINGS,
    LONG_MAX,
    TOPIC_SETTINGS,
    WITHOUT_EFFECT,
    BrokerConfig,
    Kind,
    LogConfig,
    is_dynamic,
    merge_properties,
    text_of,
)
from zkafka.errors import ConfigError
from zkafka.model import Endpoint

MINIMAL = {"zookeeper.connect": "zk:2181"}


def parse(**settings):
    """Keyword names with underscores for dots."""
    return BrokerConfig.parse(
        MINIMAL | {key.replace("_", "."): value for key, value in settings.items()}
    )


# Written by hand from Kafka 3.9's documentation, not from the module under test.
BROKER_DEFAULTS = {
    "zookeeper.session.timeout.ms": "18000",
    "zookeeper.connection.timeout.ms": None,
    "broker.id": "-1",
    "broker.id.generation.enable": "true",
    "reserved.broker.max.id": "1000",
    "broker.rack": None,
    "log.dir": "/tmp/kafka-logs",
    "log.dirs": None,
    "delete.topic.enable": "true",
    "auto.create.topics.enable": "true",
    "num.partitions": "1",
    "default.replication.factor": "1",
    "controlled.shutdown.enable": "true",
    "controlled.shutdown.max.retries": "3",
    "controlled.shutdown.retry.backoff.ms": "5000",
    "request.timeout.ms": "30000",
    "listeners": "PLAINTEXT://:9092",
    "advertised.listeners": None,
    "inter.broker.listener.name": None,
    "security.inter.broker.protocol": "PLAINTEXT",
    "num.network.threads": "3",
    "num.io.threads": "8",
    "background.threads": "10",
    "queued.max.requests": "500",
    "queued.max.request.bytes": "-1",
    "socket.request.max.bytes": "104857600",
    "socket.send.buffer.bytes": "102400",
    "socket.receive.buffer.bytes": "102400",
    "socket.listen.backlog.size": "50",
    "max.connections": "2147483647",
    "max.connections.per.ip": "2147483647",
    "connections.max.idle.ms": "600000",
    "replica.lag.time.max.ms": "30000",
    "replica.fetch.wait.max.ms": "500",
    "replica.fetch.min.bytes": "1",
    "replica.fetch.max.bytes": "1048576",
    "replica.fetch.response.max.bytes": "10485760",
    "replica.fetch.backoff.ms": "1000",
    "replica.socket.timeout.ms": "30000",
    "replica.socket.receive.buffer.bytes": "65536",
    "num.replica.fetchers": "1",
    "replica.high.watermark.checkpoint.interval.ms": "5000",
    "unclean.leader.election.enable": "false",
    "auto.leader.rebalance.enable": "true",
    "leader.imbalance.check.interval.seconds": "300",
    "leader.imbalance.per.broker.percentage": "10",
    "controller.socket.timeout.ms": "30000",
    "max.incremental.fetch.session.cache.slots": "1000",
    "fetch.max.bytes": "57671680",
    "message.max.bytes": "1048588",
    "log.segment.bytes": "1073741824",
    "log.roll.ms": None,
    "log.roll.hours": "168",
    "log.roll.jitter.ms": None,
    "log.roll.jitter.hours": "0",
    "log.retention.ms": None,
    "log.retention.minutes": None,
    "log.retention.hours": "168",
    "log.retention.bytes": "-1",
    "log.retention.check.interval.ms": "300000",
    "log.cleanup.policy": "delete",
    "log.index.size.max.bytes": "10485760",
    "log.index.interval.bytes": "4096",
    "log.flush.interval.messages": "9223372036854775807",
    "log.flush.interval.ms": None,
    "log.flush.scheduler.interval.ms": "9223372036854775807",
    "log.flush.offset.checkpoint.interval.ms": "60000",
    "log.flush.start.offset.checkpoint.interval.ms": "60000",
    "log.segment.delete.delay.ms": "60000",
    "log.preallocate": "false",
    "num.recovery.threads.per.data.dir": "1",
    "min.insync.replicas": "1",
    "compression.type": "producer",
    "compression.gzip.level": "-1",
    "compression.lz4.level": "9",
    "compression.zstd.level": "3",
    "log.message.timestamp.type": "CreateTime",
    "log.message.timestamp.before.max.ms": "9223372036854775807",
    "log.message.timestamp.after.max.ms": "9223372036854775807",
    "log.cleaner.enable": "true",
    "log.cleaner.threads": "1",
    "log.cleaner.dedupe.buffer.size": "134217728",
    "log.cleaner.io.buffer.size": "524288",
    "log.cleaner.io.buffer.load.factor": "0.9",
    "log.cleaner.io.max.bytes.per.second": "1.7976931348623157E308",
    "log.cleaner.backoff.ms": "15000",
    "log.cleaner.min.cleanable.ratio": "0.5",
    "log.cleaner.delete.retention.ms": "86400000",
    "log.cleaner.min.compaction.lag.ms": "0",
    "log.cleaner.max.compaction.lag.ms": "9223372036854775807",
    "group.min.session.timeout.ms": "6000",
    "group.max.session.timeout.ms": "1800000",
    "group.initial.rebalance.delay.ms": "3000",
    "group.max.size": "2147483647",
    "offset.metadata.max.bytes": "4096",
    "offsets.topic.num.partitions": "50",
    "offsets.topic.replication.factor": "3",
    "offsets.topic.segment.bytes": "104857600",
    "offsets.topic.compression.codec": "0",
    "offsets.load.buffer.size": "5242880",
    "offsets.retention.minutes": "10080",
    "offsets.retention.check.interval.ms": "600000",
    "offsets.commit.timeout.ms": "5000",
    "offsets.commit.required.acks": "-1",
    "transaction.state.log.num.partitions": "50",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "transaction.state.log.segment.bytes": "104857600",
    "transaction.max.timeout.ms": "900000",
    "producer.id.expiration.ms": "86400000",
    "inter.broker.protocol.version": "3.9-IV0",
}

TOPIC_DEFAULTS = {
    "cleanup.policy": "delete",
    "compression.type": "producer",
    "delete.retention.ms": "86400000",
    "file.delete.delay.ms": "60000",
    "flush.messages": "9223372036854775807",
    "flush.ms": "9223372036854775807",
    "index.interval.bytes": "4096",
    "max.compaction.lag.ms": "9223372036854775807",
    "max.message.bytes": "1048588",
    "message.downconversion.enable": "true",
    "message.format.version": "3.0-IV1",
    "message.timestamp.type": "CreateTime",
    "min.cleanable.dirty.ratio": "0.5",
    "min.compaction.lag.ms": "0",
    "min.insync.replicas": "1",
    "preallocate": "false",
    "retention.bytes": "-1",
    "retention.ms": "604800000",
    "segment.bytes": "1073741824",
    "segment.index.bytes": "10485760",
    "segment.jitter.ms": "0",
    "segment.ms": "604800000",
    "unclean.leader.election.enable": "false",
    "leader.replication.throttled.replicas": "",
    "remote.storage.enable": "false",
    "local.retention.ms": "-2",
}


@pytest.mark.parametrize(("key", "default"), BROKER_DEFAULTS.items())
def test_broker_defaults_are_kafkas(key, default):
    assert BROKER_SETTINGS[key].default_text == default


@pytest.mark.parametrize(("key", "default"), TOPIC_DEFAULTS.items())
def test_topic_defaults_are_kafkas(key, default):
    assert TOPIC_SETTINGS[key].default_text == default


def test_every_setting_says_what_it_does_and_has_a_valid_default():
    for key, declared in {**BROKER_SETTINGS, **TOPIC_SETTINGS}.items():
        assert declared.key == key
        assert declared.doc.endswith("."), key
        assert len(declared.doc) > 10, key
        if declared.default_text is not None and declared.kind is not Kind.CLASS:
            assert declared.parse(declared.default_text) == declared.default, key


def test_python_names_are_kafkas_with_underscores_and_a_unit():
    for cls in (LogConfig, BrokerConfig):
        for field in attrs.fields(cls):
            for declared in field.metadata.values():
                kafka = declared.key.removeprefix("zkafka.").replace(".", "_")
                assert field.name in (kafka, f"{kafka}_bytes"), declared.key


def test_an_empty_file_gives_the_topic_defaults():
    config = BrokerConfig.parse(MINIMAL)
    assert config.log_defaults == LogConfig()
    assert config.log_defaults.retention_ms == 7 * 24 * 3600 * 1000
    assert config.log_defaults.retention_bytes is None
    assert config.log_defaults.cleanup_policy == ("delete",)
    assert config.log_defaults.segment_ms == 168 * 3600 * 1000
    assert config.zookeeper_connection_timeout_ms == 18000, "the session timeout"
    assert config.log_dirs == ("/tmp/kafka-logs",)
    assert config.admin_listener is None
    assert (config.unknown_keys, config.ignored_keys) == ((), ())


# ------------------------------------------------------------------------------ values


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("num.partitions", " 12 ", 12),
        ("auto.create.topics.enable", "FALSE", False),
        ("log.cleaner.io.buffer.load.factor", "0.25", 0.25),
        ("log.cleaner.min.cleanable.ratio", "1", 1.0),
        ("log.cleanup.policy", "compact , delete", ("compact", "delete")),
        ("log.cleanup.policy", "", ()),
        ("log.retention.bytes", "-5", None),
        ("log.retention.ms", "-1", None),
        ("compression.type", "zstd", "zstd"),
    ],
)
def test_values_are_read_as_kafka_reads_them(key, text, value):
    assert BROKER_SETTINGS[key].parse(text) == value


@pytest.mark.parametrize(
    ("key", "text", "allowed"),
    [
        ("num.partitions", "0", "a whole number from 1 to 2147483647"),
        ("num.partitions", "2147483648", "from 1 to 2147483647"),
        ("num.partitions", "1_000", "whole number"),
        ("num.partitions", "1.5", "whole number"),
        ("num.partitions", "", "whole number"),
        ("offsets.topic.replication.factor", "40000", "from 1 to 32767"),
        ("auto.create.topics.enable", "yes", "true or false"),
        ("log.cleaner.min.cleanable.ratio", "1.1", "at least 0 and at most 1"),
        ("log.cleaner.min.cleanable.ratio", "nan", "at least 0"),
        ("log.cleanup.policy", "compact,burn", "a list of compact, delete"),
        ("compression.type", "brotli", "one of uncompressed, zstd"),
        ("log.segment.bytes", "13", "from 14 to"),
        ("compression.zstd.level", "23", "-131072 to 22"),
    ],
)
def test_a_bad_value_names_the_key_the_value_and_what_is_allowed(key, text, allowed):
    with pytest.raises(ConfigError) as refused:
        BrokerConfig.parse({**MINIMAL, key: text})
    message = str(refused.value)
    assert message.startswith(f"{key}={text!r}")
    assert allowed in message


def test_a_bad_secret_is_not_repeated():
    secret = WITHOUT_EFFECT["delegation.token.secret.key"]
    assert secret.is_sensitive
    assert "hunter2" not in str(secret.refuse("hunter2"))


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "true"), (None, None), (1.5, "1.5"), (("a", "b"), "a,b"), (7, "7"), ((), "")],
)
def test_values_are_written_as_kafka_writes_them(value, text):
    assert text_of(value) == text


# ------------------------------------------------------------------------------ precedence


@pytest.mark.parametrize(
    ("properties", "retention_ms"),
    [
        ({"log.retention.hours": "1"}, 3_600_000),
        ({"log.retention.hours": "1", "log.retention.minutes": "2"}, 120_000),
        ({"log.retention.minutes": "2", "log.retention.ms": "3"}, 3),
        ({"log.retention.hours": "1", "log.retention.ms": "-1"}, None),
        ({"log.retention.minutes": "-7"}, None),
    ],
)
def test_the_finest_unit_wins(properties, retention_ms):
    assert BrokerConfig.parse(MINIMAL | properties).log_defaults.retention_ms == retention_ms


def test_other_times_have_units_too():
    defaults = parse(log_roll_hours="2", log_roll_jitter_hours="1").log_defaults
    assert (defaults.segment_ms, defaults.segment_jitter_ms) == (7_200_000, 3_600_000)
    assert parse(log_flush_scheduler_interval_ms="9").log_defaults.flush_ms == 9
    both = parse(log_flush_scheduler_interval_ms="9", log_flush_interval_ms="4")
    assert both.log_defaults.flush_ms == 4


def test_the_deprecated_time_difference_fills_in_for_a_bound_that_is_not_changed():
    both = parse(log_message_timestamp_difference_max_ms="7").log_defaults
    assert (both.timestamp_before_max_ms, both.timestamp_after_max_ms) == (7, 7)
    assert both.message_timestamp_before_max_ms == LONG_MAX, "told as it was set"
    one = both.with_overrides(
        {"message.timestamp.difference.max.ms": "9", "message.timestamp.after.max.ms": "1"}
    )
    assert (one.timestamp_before_max_ms, one.timestamp_after_max_ms) == (9, 1)


def test_whether_batches_are_taken_as_they_are_is_worked_out_anew_for_each_change():
    config = LogConfig()
    for key, value in (
        ("compression.type", "gzip"),
        ("message.timestamp.type", "LogAppendTime"),
        ("message.timestamp.before.max.ms", "5"),
        ("message.timestamp.difference.max.ms", "5"),
        ("zkafka.record.validation", "records"),
        ("cleanup.policy", "compact,delete"),
    ):
        assert config.takes_batches_as_sent
        assert not config.with_overrides({key: value}).takes_batches_as_sent, key
    assert not parse(zkafka_log_record_validation="records").log_defaults.takes_batches_as_sent


def test_the_file_the_environment_and_the_command_line_in_that_order():
    text = "# mine\nlog.dirs = /a,\\\n  /b\nnum.partitions:2\nbroker.id=1\n"
    environment = {
        "ZKAFKA_NUM_PARTITIONS": "3",
        "ZKAFKA_BROKER_ID": "2",
        "ZKAFKA_ADMIN_LISTENER": "127.0.0.1:8080",
        "HOME": "/root",
    }
    merged = merge_properties(text, ["broker.id=3"], environment)
    assert merged == {
        "log.dirs": "/a,/b",
        "num.partitions": "3",
        "broker.id": "3",
        "zkafka.admin.listener": "127.0.0.1:8080",
    }


def test_variables_can_spell_dashes_and_underscores():
    merged = merge_properties("", environment={"ZKAFKA_A__B_C___D": "1"})
    assert merged == {"a-b.c_d": "1"}


@pytest.mark.parametrize("override", ["broker.id", "=3", ""])
def test_an_override_needs_a_key_and_a_value(override):
    with pytest.raises(ConfigError, match="key=value"):
        merge_properties("", [override])


def test_a_broken_escape_in_the_file_is_refused():
    with pytest.raises(ConfigError, match="broken escape"):
        merge_properties("a=\\u12")


# ------------------------------------------------------------------------------ topics


def test_a_topic_overrides_what_it_names():
    base = parse(log_retention_ms="5", min_insync_replicas="2").log_defaults
    topic = LogConfig.with_overrides(base, {"retention.ms": "-1", "cleanup.policy": "compact"})
    assert topic == attrs.evolve(base, retention_ms=None, cleanup_policy=("compact",))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"retention": "1"}, "retention is not a topic setting"),
        ({"retention.ms": "-2"}, "retention.ms='-2'.*from -1"),
        ({"min.insync.replicas": "0"}, "min.insync.replicas='0'"),
        ({"min.compaction.lag.ms": "5", "max.compaction.lag.ms": "4"}, "at most max.compaction"),
        ({"remote.storage.enable": "true"}, "tiered storage is not available"),
        ({"message.timestamp.type": "Mine"}, "one of CreateTime, LogAppendTime"),
        ({"compression.gzip.level": "0"}, "-1 or 1 to 9"),
        ({"zkafka.record.validation": "all"}, "one of header, records"),
    ],
)
def test_bad_overrides_are_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        LogConfig().with_overrides(overrides)


def test_a_segment_of_a_compacted_topic_is_closed_before_its_records_are_overdue():
    overrides = {"segment.ms": "1000", "max.compaction.lag.ms": "600"}
    config = LogConfig().with_overrides(overrides)
    assert config.max_segment_ms == 1000
    assert config.with_overrides({"cleanup.policy": "compact,delete"}).max_segment_ms == 600
    compacted = config.with_overrides({"cleanup.policy": "compact"})
    assert compacted.with_overrides({"segment.ms": "500"}).max_segment_ms == 500


def test_each_log_default_but_the_coarse_ones_is_dynamic():
    static = {key for key in LOG_DEFAULT_SETTINGS if not is_dynamic(key)}
    assert static == {
        "log.flush.scheduler.interval.ms",
        "log.message.format.version",
        "log.retention.hours",
        "log.retention.minutes",
        "log.roll.hours",
        "log.roll.jitter.hours",
    }
    assert not is_dynamic("num.io.threads")
    assert not is_dynamic("made.up")


# ------------------------------------------------------------------------------ listeners


def test_listeners_are_names_hosts_and_ports():
    config = parse(
        listeners="inside://127.0.0.1:9092, OUTSIDE://[::1]:9093,ANY://:0",
        listener_security_protocol_map="INSIDE:PLAINTEXT,OUTSIDE:PLAINTEXT,any:plaintext",
        inter_broker_listener_name="inside",
        advertised_listeners="INSIDE://h:9092,ANY://:0",
    )
    assert config.listeners == (
        Endpoint("INSIDE", "127.0.0.1", 9092),
        Endpoint("OUTSIDE", "::1", 9093),
        Endpoint("ANY", "", 0),
    )
    assert config.inter_broker_listener_name == "INSIDE"
    assert config.advertised("canonical", {"ANY": 4711}) == (
        Endpoint("INSIDE", "h", 9092),
        Endpoint("ANY", "canonical", 4711),
    )


def test_one_port_may_serve_both_kinds_of_addresses():
    config = parse(
        listeners="A://127.0.0.1:9092,B://[::1]:9092",
        listener_security_protocol_map="A:PLAINTEXT,B:PLAINTEXT",
        inter_broker_listener_name="A",
    )
    assert len(config.listeners) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"listeners": "PLAINTEXT:9092"}, "must be NAME://host:port"),
        ({"listeners": "PLAINTEXT://::1:9092"}, "IPv6 host in brackets"),
        ({"listeners": "PLAINTEXT://h:70000"}, "port from 0 to 65535"),
        ({"listeners": ""}, "at least one listener"),
        ({"listeners": "INSIDE://h:1"}, "has no entry for INSIDE"),
        ({"listeners": "SSL://h:1"}, "only PLAINTEXT is available"),
        ({"listeners": "PLAINTEXT://a:1,PLAINTEXT://b:2"}, "names must differ"),
        (
            {
                "listeners": "A://a:1,B://b:1",
                "listener_security_protocol_map": "A:PLAINTEXT,B:PLAINTEXT",
            },
            "port 1 is named twice",
        ),
        ({"listener_security_protocol_map": "A=PLAINTEXT"}, "must be NAME:PROTOCOL"),
        ({"advertised_listeners": "PLAINTEXT://0.0.0.0:1"}, "clients can connect to"),
        ({"listeners": "PLAINTEXT://0.0.0.0:1"}, "set advertised.listeners"),
        (
            {
                "advertised_listeners": "A://h:1",
                "listener_security_protocol_map": "A:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            },
            "must name one of the listeners PLAINTEXT",
        ),
        ({"inter_broker_listener_name": "B"}, "one of the advertised listeners PLAINTEXT"),
        (
            {
                "inter_broker_listener_name": "PLAINTEXT",
                "security_inter_broker_protocol": "PLAINTEXT",
            },
            "are both set",
        ),
        ({"max_connections_per_ip_overrides": "h"}, "must be host:count"),
    ],
)
def test_listeners_that_cannot_serve_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        parse(**settings)


def test_the_operators_port():
    config = BrokerConfig.parse({**MINIMAL, "zkafka.admin.listener": "127.0.0.1:8080"})
    assert config.admin_listener == Endpoint("ADMIN", "127.0.0.1", 8080)
    with pytest.raises(ConfigError, match="must be host:port"):
        BrokerConfig.parse({**MINIMAL, "zkafka.admin.listener": "8080"})


def test_limits_of_single_addresses():
    config = parse(max_connections_per_ip="0", max_connections_per_ip_overrides="a:1,[::1]:2")
    assert config.max_connections_per_ip_overrides == {"a": 1, "::1": 2}


# ------------------------------------------------------------------------------ cross checks


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"broker_id": "1001"}, "from -1 to reserved.broker.max.id=1000"),
        ({"broker_id": "-2"}, "from -1"),
        ({"broker_id_generation_enable": "false"}, "at least 0"),
        ({"log_dirs": " , "}, "at least one directory"),
        ({"log_retention_ms": "0"}, r"log.retention.ms=0.*-1 \(unlimited\)"),
        ({"log_retention_hours": "0"}, "log.retention.hours=0"),
        ({"replica_fetch_wait_max_ms": "30001"}, "at most replica.socket.timeout.ms=30000"),
        ({"replica_lag_time_max_ms": "100"}, "at most replica.lag.time.max.ms=100"),
        ({"queued_max_request_bytes": "5"}, "socket.request.max.bytes=104857600"),
        ({"max_connections_per_ip": "0"}, "without max.connections.per.ip.overrides"),
        ({"group_min_session_timeout_ms": "1800001"}, "at most group.max.session.timeout.ms"),
        ({"log_roll_ms": "0"}, "log.roll.ms='0'"),
        ({"log_cleaner_dedupe_buffer_size": "1048576"}, "more than 1048576 for each"),
        (
            {"log_cleaner_dedupe_buffer_size": "2097152", "log_cleaner_threads": "2"},
            "each of log.cleaner.threads=2",
        ),
    ],
)
def test_contradictions_stop_the_start(settings, message):
    with pytest.raises(ConfigError, match=message):
        parse(**settings)


def test_zookeeper_must_be_named():
    with pytest.raises(ConfigError, match=r"zookeeper\.connect is not set"):
        BrokerConfig.parse({})


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("authorizer.class.name", "kafka.security.authorizer.AclAuthorizer"),
        ("zookeeper.set.acl", "true"),
        ("zookeeper.ssl.client.enable", "true"),
        ("create.topic.policy.class.name", "org.example.Policy"),
    ],
)
def test_a_protection_that_we_do_not_have_is_not_ignored(key, text):
    with pytest.raises(ConfigError, match=f"{key}.*since"):
        BrokerConfig.parse({**MINIMAL, key: text})


def test_a_protection_that_is_off_may_be_named():
    config = parse(zookeeper_set_acl="false", authorizer_class_name="")
    assert config.ignored_keys == ()


def test_keys_without_effect_and_unknown_ones_are_reported():
    config = BrokerConfig.parse(
        {
            **MINIMAL,
            "num.network.threads": "8",
            "ssl.keystore.location": "/x",
            "listener.name.inside.ssl.client.auth": "required",
            "my.plugin.setting": "1",
        }
    )
    assert config.ignored_keys == (
        "listener.name.inside.ssl.client.auth",
        "num.network.threads",
        "ssl.keystore.location",
    )
    assert config.unknown_keys == ("my.plugin.setting",)
    assert config.properties["my.plugin.setting"] == "1"
