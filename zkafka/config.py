"""Every setting once: Kafka's name, type, default, bounds, and what it does here.

Two scopes, each a frozen class whose fields are declared with `setting(...)`:

- `LogConfig` is what one topic's logs obey. A topic overrides it with Kafka's topic keys
  (`retention.ms`); what it does not override comes from the broker's twin of the key
  (`log.retention.ms`), else from the default.
- `BrokerConfig` is the rest, read once at the start from a Java properties file.

Python names are Kafka's with underscores, and carry the unit. None stands for "unlimited" where
Kafka writes -1, and for "not set" where Kafka has no default.

A key of Kafka 3.9 that cannot mean anything here is in `WITHOUT_EFFECT`: accepted, and reported
in `BrokerConfig.ignored_keys`. A key whose silent neglect would remove a protection that the
operator asked for (an authorizer, TLS, ACLs on znodes) stops the start instead: see `_PROTECTIONS`.
Unknown keys are kept and reported in `BrokerConfig.unknown_keys`.

Where keys give the same time in several units, the finest wins: ms, then minutes, then hours.

Source: `KafkaConfig` and `TopicConfig` of Apache Kafka 3.9: names, types, defaults
and bounds are Kafka's unless the key begins with `zkafka.`, which are ours.
"""

import enum
import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import attrs
import javaproperties

from zkafka.errors import ConfigError
from zkafka.model import Endpoint

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
SECONDS_MS: Final = 1000
MINUTES_MS: Final = 60 * SECONDS_MS
HOURS_MS: Final = 60 * MINUTES_MS
DAYS_MS: Final = 24 * HOURS_MS
INT_MAX: Final = 2**31 - 1
LONG_MAX: Final = 2**63 - 1
DOUBLE_MAX: Final = 1.7976931348623157e308


class Kind(enum.IntEnum):
    """A value's type, numbered as DescribeConfigs v3 reports it."""

    BOOLEAN = 1
    STRING = 2
    INT = 3
    SHORT = 4
    LONG = 5
    DOUBLE = 6
    LIST = 7
    CLASS = 8
    PASSWORD = 9


class Mode(enum.Enum):
    """Whether and where a broker key may change while the broker runs."""

    STATIC = "static"
    CLUSTER = "cluster"
    """For the whole cluster, or for one broker."""


_RANGES: Final = {
    Kind.INT: (-(2**31), INT_MAX),
    Kind.SHORT: (-(2**15), 2**15 - 1),
    Kind.LONG: (-(2**63), LONG_MAX),
}

Value = bool | int | float | str | tuple[str, ...] | None


@attrs.frozen(kw_only=True)
class Setting:
    """One key's declaration.

    `default` is the parsed value; None means not set. `negative_is_none` turns -1 and below into
    None (unlimited); with `is_unset` a default of None means not set even so. `synonyms` are the
    broker keys that a topic key falls back on, finest unit first, each with the factor that turns
    its unit into the topic key's.
    """

    key: str
    kind: Kind
    default: Value
    doc: str
    at_least: float | None = None
    at_most: float | None = None
    one_of: tuple[str, ...] = ()
    negative_is_none: bool = False
    is_unset: bool = False
    synonyms: tuple[tuple[str, int], ...] = ()
    mode: Mode = Mode.STATIC

    @property
    def default_text(self) -> str | None:
        """The default as Kafka writes it; None where there is none."""
        if self.default is None and self.negative_is_none and not self.is_unset:
            return "-1"
        return text_of(self.default)

    @property
    def is_sensitive(self) -> bool:
        """Whether the value must never be shown."""
        return self.kind is Kind.PASSWORD

    def allowed(self) -> str:
        """What may be written, for an error message."""
        if self.one_of:
            every = "a list of " if self.kind is Kind.LIST else "one of "
            return every + ", ".join(self.one_of)
        if self.kind is Kind.BOOLEAN:
            return "true or false"
        low, high = _RANGES.get(self.kind, (None, None))
        least = self.at_least if self.at_least is not None else low
        most = self.at_most if self.at_most is not None else high
        if self.kind in _RANGES:
            return f"a whole number from {least} to {most}"
        if self.kind is Kind.DOUBLE:
            bounds = [f"at least {least}"] if least is not None else []
            bounds += [f"at most {most}"] if most is not None else []
            return " ".join(["a number", " and ".join(bounds)]).strip()
        return "text"

    def refuse(self, text: str) -> ConfigError:
        """The error that names the key, the value and what is allowed."""
        shown = "[hidden]" if self.is_sensitive else repr(text)
        return ConfigError(f"{self.key}={shown} is not allowed: it must be {self.allowed()}")

    def parse(self, text: str) -> Value:
        """The value that `text` stands for. Errors: `ConfigError`."""
        text = text.strip()
        value: Value
        match self.kind:
            case Kind.BOOLEAN:
                lowered = text.lower()
                if lowered not in ("true", "false"):
                    raise self.refuse(text)
                return lowered == "true"
            case Kind.INT | Kind.SHORT | Kind.LONG:
                value = self._parse_number(text)
            case Kind.DOUBLE:
                try:
                    value = float(text)
                except ValueError as error:
                    raise self.refuse(text) from error
                self._check_bounds(value, text)
            case Kind.LIST:
                value = tuple(item.strip() for item in text.split(",")) if text else ()
                if self.one_of and not set(value) <= set(self.one_of):
                    raise self.refuse(text)
            case _:
                if self.one_of and text not in self.one_of:
                    raise self.refuse(text)
                value = text
        return value

    def _parse_number(self, text: str) -> int | None:
        # int() alone would also take "1_000" and other scripts' digits, which Kafka does not.
        if re.fullmatch(r"[+-]?[0-9]{1,20}", text) is None:
            raise self.refuse(text)
        value = int(text)
        low, high = _RANGES[self.kind]
        if not low <= value <= high:
            raise self.refuse(text)
        self._check_bounds(value, text)
        return None if self.negative_is_none and value < 0 else value

    def _check_bounds(self, value: float, text: str) -> None:
        # Written so that NaN is refused as well.
        if self.at_least is not None and not value >= self.at_least:
            raise self.refuse(text)
        if self.at_most is not None and not value <= self.at_most:
            raise self.refuse(text)


def text_of(value: Value) -> str | None:
    """The value as Kafka writes it: `true`, `1.7976931348623157E308`, `delete,compact`."""
    match value:
        case None:
            return None
        case bool():
            return "true" if value else "false"
        case float():
            return repr(value).replace("e+", "E")
        case tuple():
            return ",".join(value)
        case _:
            return str(value)


_SETTING = "zkafka.setting"


def setting(key: str, kind: Kind, default: Any, doc: str, **bounds: Any) -> Any:
    """An attrs field that carries its `Setting`. A one-item synonym may be a bare string."""
    synonyms = bounds.pop("synonyms", ())
    declared = Setting(
        key=key,
        kind=kind,
        default=default,
        doc=doc,
        synonyms=((synonyms, 1),) if isinstance(synonyms, str) else synonyms,
        **bounds,
    )
    return attrs.field(default=default, metadata={_SETTING: declared})


def _settings_of(cls: type[Any]) -> dict[str, tuple[str, Setting]]:
    """Kafka's key -> (python name, declaration), in the order of the class."""
    return {
        field.metadata[_SETTING].key: (field.name, field.metadata[_SETTING])
        for field in attrs.fields(cls)
        if _SETTING in field.metadata
    }


# ---------------------------------------------------------------------------------- topics

_CODECS = ("uncompressed", "zstd", "lz4", "snappy", "gzip", "producer")


@attrs.frozen(kw_only=True)
class LogConfig:
    """What one topic's logs obey; see `with_overrides` and `BrokerConfig.log_defaults`.

    The instances are values: `PartitionLog.reconfigure` replaces one by another.
    """

    cleanup_policy: tuple[str, ...] = setting(
        "cleanup.policy", Kind.LIST, ("delete",),
        "Whether old segments are deleted, compacted by key, or both.",
        one_of=("compact", "delete"), synonyms="log.cleanup.policy",
    )  # fmt: skip
    compression_type: str = setting(
        "compression.type", Kind.STRING, "producer",
        "Codec of the stored batches; producer keeps each batch as it was sent, any other has "
        "batches of another codec opened and compressed anew, in a worker thread.",
        one_of=_CODECS, synonyms="compression.type",
    )  # fmt: skip
    compression_gzip_level: int = setting(
        "compression.gzip.level", Kind.INT, -1,
        "Level where compression.type is gzip; -1 for the library's own, 6.",
        at_least=-1, at_most=9, synonyms="compression.gzip.level",
    )  # fmt: skip
    compression_lz4_level: int = setting(
        "compression.lz4.level", Kind.INT, 9,
        "Level where compression.type is lz4; 9 is the fast compressor, as in Kafka, any other "
        "the thorough one.",
        at_least=1, at_most=17, synonyms="compression.lz4.level",
    )  # fmt: skip
    compression_zstd_level: int = setting(
        "compression.zstd.level", Kind.INT, 3,
        "Level where compression.type is zstd.",
        at_least=-131072, at_most=22, synonyms="compression.zstd.level",
    )  # fmt: skip
    delete_retention_ms: int = setting(
        "delete.retention.ms", Kind.LONG, DAYS_MS,
        "How long compaction keeps tombstones and transaction markers once it has seen them.",
        at_least=0, synonyms="log.cleaner.delete.retention.ms",
    )  # fmt: skip
    file_delete_delay_ms: int = setting(
        "file.delete.delay.ms", Kind.LONG, MINUTES_MS,
        "Time between renaming a segment to .deleted and unlinking it.",
        at_least=0, synonyms="log.segment.delete.delay.ms",
    )  # fmt: skip
    flush_messages: int = setting(
        "flush.messages", Kind.LONG, LONG_MAX,
        "Records after which a log is fsynced.",
        at_least=1, synonyms="log.flush.interval.messages",
    )  # fmt: skip
    flush_ms: int = setting(
        "flush.ms", Kind.LONG, LONG_MAX,
        "Age of unsynced records at which a log is fsynced.",
        at_least=0,
        synonyms=(("log.flush.interval.ms", 1), ("log.flush.scheduler.interval.ms", 1)),
    )  # fmt: skip
    follower_replication_throttled_replicas: tuple[str, ...] = setting(
        "follower.replication.throttled.replicas", Kind.LIST, (),
        "Replicas throttled on the fetching side; stored, without effect here.",
    )  # fmt: skip
    index_interval_bytes: int = setting(
        "index.interval.bytes", Kind.INT, 4096,
        "Log bytes between two entries of the offset index.",
        at_least=0, synonyms="log.index.interval.bytes",
    )  # fmt: skip
    leader_replication_throttled_replicas: tuple[str, ...] = setting(
        "leader.replication.throttled.replicas", Kind.LIST, (),
        "Replicas throttled on the serving side; stored, without effect here.",
    )  # fmt: skip
    local_retention_bytes: int = setting(
        "local.retention.bytes", Kind.LONG, -2,
        "Tiered storage only; stored, without effect here.",
        at_least=-2,
    )  # fmt: skip
    local_retention_ms: int = setting(
        "local.retention.ms", Kind.LONG, -2,
        "Tiered storage only; stored, without effect here.",
        at_least=-2,
    )  # fmt: skip
    max_compaction_lag_ms: int = setting(
        "max.compaction.lag.ms", Kind.LONG, LONG_MAX,
        "Age of a record not yet compacted that has its log compacted whatever the dirty share; "
        "segments of compacted topics are closed at this age as well.",
        at_least=1, synonyms="log.cleaner.max.compaction.lag.ms",
    )  # fmt: skip
    max_message_bytes: int = setting(
        "max.message.bytes", Kind.INT, MIB + 12,
        "Largest record batch accepted, as sent.",
        at_least=0, synonyms="message.max.bytes",
    )  # fmt: skip
    message_downconversion_enable: bool = setting(
        "message.downconversion.enable", Kind.BOOLEAN, True,
        "Without effect: clients that need older record formats are not served.",
        synonyms="log.message.downconversion.enable",
    )  # fmt: skip
    message_format_version: str = setting(
        "message.format.version", Kind.STRING, "3.0-IV1",
        "Without effect: record batches are always of format 2.",
        synonyms="log.message.format.version",
    )  # fmt: skip
    message_timestamp_after_max_ms: int = setting(
        "message.timestamp.after.max.ms", Kind.LONG, LONG_MAX,
        "How far a record's CreateTime may lie in the future.",
        at_least=0, synonyms="log.message.timestamp.after.max.ms",
    )  # fmt: skip
    message_timestamp_before_max_ms: int = setting(
        "message.timestamp.before.max.ms", Kind.LONG, LONG_MAX,
        "How far a record's CreateTime may lie in the past; where it is set, batches are opened to "
        "look at every record.",
        at_least=0, synonyms="log.message.timestamp.before.max.ms",
    )  # fmt: skip
    message_timestamp_difference_max_ms: int = setting(
        "message.timestamp.difference.max.ms", Kind.LONG, LONG_MAX,
        "Deprecated: stands for each of the two bounds above that is not changed itself.",
        at_least=0, synonyms="log.message.timestamp.difference.max.ms",
    )  # fmt: skip
    message_timestamp_type: str = setting(
        "message.timestamp.type", Kind.STRING, "CreateTime",
        "Whose time a record carries: its producer's (CreateTime) or the leader's "
        "(LogAppendTime).",
        one_of=("CreateTime", "LogAppendTime"), synonyms="log.message.timestamp.type",
    )  # fmt: skip
    min_cleanable_dirty_ratio: float = setting(
        "min.cleanable.dirty.ratio", Kind.DOUBLE, 0.5,
        "Share of bytes not yet compacted above which a log is compacted.",
        at_least=0, at_most=1, synonyms="log.cleaner.min.cleanable.ratio",
    )  # fmt: skip
    min_compaction_lag_ms: int = setting(
        "min.compaction.lag.ms", Kind.LONG, 0,
        "Age below which a record is left alone by compaction.",
        at_least=0, synonyms="log.cleaner.min.compaction.lag.ms",
    )  # fmt: skip
    min_insync_replicas: int = setting(
        "min.insync.replicas", Kind.INT, 1,
        "In-sync replicas without which a write with acks=all is refused.",
        at_least=1, synonyms="min.insync.replicas",
    )  # fmt: skip
    preallocate: bool = setting(
        "preallocate", Kind.BOOLEAN, False,
        "Whether a new segment's file has room on the disk for segment.bytes from the beginning.",
        synonyms="log.preallocate",
    )  # fmt: skip
    record_validation: str = setting(
        "zkafka.record.validation", Kind.STRING, "header",
        "What is checked of a producer's batch: its header and checksum (header), or every record "
        "in it as well (records, in a worker thread), as Kafka does. Ours.",
        one_of=("header", "records"), synonyms="zkafka.log.record.validation",
    )  # fmt: skip
    remote_log_copy_disable: bool = setting(
        "remote.log.copy.disable", Kind.BOOLEAN, False,
        "Tiered storage only; stored, without effect here.",
    )  # fmt: skip
    remote_log_delete_on_disable: bool = setting(
        "remote.log.delete.on.disable", Kind.BOOLEAN, False,
        "Tiered storage only; stored, without effect here.",
    )  # fmt: skip
    remote_storage_enable: bool = setting(
        "remote.storage.enable", Kind.BOOLEAN, False,
        "Tiered storage, which is not available: true is refused.",
    )  # fmt: skip
    retention_bytes: int | None = setting(
        "retention.bytes", Kind.LONG, None,
        "Size above which a partition's oldest segments are deleted; -1 for no limit.",
        negative_is_none=True, synonyms="log.retention.bytes",
    )  # fmt: skip
    retention_ms: int | None = setting(
        "retention.ms", Kind.LONG, 7 * DAYS_MS,
        "Age above which segments are deleted; -1 for no limit.",
        at_least=-1, negative_is_none=True,
        synonyms=(
            ("log.retention.ms", 1),
            ("log.retention.minutes", MINUTES_MS),
            ("log.retention.hours", HOURS_MS),
        ),
    )  # fmt: skip
    segment_bytes: int = setting(
        "segment.bytes", Kind.INT, GIB,
        "Size at which a segment is closed and a new one begun.",
        at_least=14, synonyms="log.segment.bytes",
    )  # fmt: skip
    segment_index_bytes: int = setting(
        "segment.index.bytes", Kind.INT, 10 * MIB,
        "Size at which an index is full and its segment is closed.",
        at_least=4, synonyms="log.index.size.max.bytes",
    )  # fmt: skip
    segment_jitter_ms: int = setting(
        "segment.jitter.ms", Kind.LONG, 0,
        "Largest random time by which a segment is closed early, so that not all close at once.",
        at_least=0, synonyms=(("log.roll.jitter.ms", 1), ("log.roll.jitter.hours", HOURS_MS)),
    )  # fmt: skip
    segment_ms: int = setting(
        "segment.ms", Kind.LONG, 7 * DAYS_MS,
        "Age at which a segment is closed although it is not full.",
        at_least=1, synonyms=(("log.roll.ms", 1), ("log.roll.hours", HOURS_MS)),
    )  # fmt: skip
    unclean_leader_election_enable: bool = setting(
        "unclean.leader.election.enable", Kind.BOOLEAN, False,
        "Whether a replica out of sync may lead when no other is left; acknowledged data can go.",
        synonyms="unclean.leader.election.enable",
    )  # fmt: skip

    # Worked out, once for many batches.
    timestamp_before_max_ms: int = attrs.field(init=False, repr=False, eq=False)
    timestamp_after_max_ms: int = attrs.field(init=False, repr=False, eq=False)
    max_segment_ms: int = attrs.field(init=False, repr=False, eq=False)
    """Age at which a segment is closed: only closed ones are compacted, which must not come too
    late either."""
    takes_batches_as_sent: bool = attrs.field(init=False, repr=False, eq=False)
    """No rule here asks for more than a sound header: nothing is opened, changed or timed."""

    @timestamp_before_max_ms.default
    def _before(self) -> int:
        own = self.message_timestamp_before_max_ms
        return own if own != LONG_MAX else self.message_timestamp_difference_max_ms

    @timestamp_after_max_ms.default
    def _after(self) -> int:
        own = self.message_timestamp_after_max_ms
        return own if own != LONG_MAX else self.message_timestamp_difference_max_ms

    @max_segment_ms.default
    def _max_segment_ms(self) -> int:
        if "compact" in self.cleanup_policy:
            return min(self.segment_ms, self.max_compaction_lag_ms)
        return self.segment_ms

    @takes_batches_as_sent.default
    def _as_sent(self) -> bool:
        return (
            self.compression_type == "producer"
            and self.message_timestamp_type == "CreateTime"
            and self.record_validation == "header"
            and "compact" not in self.cleanup_policy
            and self.timestamp_before_max_ms == self.timestamp_after_max_ms == LONG_MAX
        )

    def value_of(self, key: str) -> Value:
        """The value of a topic's key."""
        value: Value = getattr(self, _TOPIC_NAMES[key])
        return value

    def with_overrides(self, overrides: Mapping[str, str]) -> "LogConfig":
        """This configuration with a topic's keys applied.

        Errors: `ConfigError` for an unknown key, a bad value, or values that contradict each
        other; it names the key, the value and what is allowed.
        """
        values: dict[str, Any] = {}
        for key, text in overrides.items():
            if key not in TOPIC_SETTINGS:
                raise ConfigError(f"{key} is not a topic setting")
            values[_TOPIC_NAMES[key]] = TOPIC_SETTINGS[key].parse(text)
        return self._with_values(values)

    def _with_values(self, values: dict[str, Any]) -> "LogConfig":
        """Replace some values, and check them against each other."""
        config = attrs.evolve(self, **values)
        if config.min_compaction_lag_ms > config.max_compaction_lag_ms:
            raise ConfigError(
                f"min.compaction.lag.ms={config.min_compaction_lag_ms} is not allowed: it must be "
                f"at most max.compaction.lag.ms, which is {config.max_compaction_lag_ms}"
            )
        if config.compression_gzip_level == 0:
            raise ConfigError("compression.gzip.level=0 is not allowed: it must be -1 or 1 to 9")
        if config.remote_storage_enable:
            raise ConfigError(
                "remote.storage.enable=true is not allowed: tiered storage is not available"
            )
        return config

    @classmethod
    def from_broker_properties(cls, properties: Mapping[str, str]) -> "LogConfig":
        """What a topic without overrides gets from the broker's keys.

        `properties` may be the static ones, or those with dynamic values laid over them: only the
        finest unit of each time is dynamic, and the finest wins. Errors: `ConfigError`.
        """
        values: dict[str, Any] = {}
        for key, declared in TOPIC_SETTINGS.items():
            for synonym, factor in declared.synonyms:
                if synonym in properties:
                    value = LOG_DEFAULT_SETTINGS[synonym].parse(properties[synonym])
                    values[_TOPIC_NAMES[key]] = _scaled(value, factor)
                    break
        return cls()._with_values(values)


def _scaled(value: Value, factor: int) -> Value:
    if factor == 1 or value is None:
        return value
    assert isinstance(value, int)
    return value * factor


_TOPIC_NAMES: Final = {key: name for key, (name, _) in _settings_of(LogConfig).items()}
TOPIC_SETTINGS: Final[Mapping[str, Setting]] = MappingProxyType(
    {key: declared for key, (_, declared) in _settings_of(LogConfig).items()}
)
"""Every topic key."""


def _log_defaults() -> dict[str, Setting]:
    """The broker twins of the topic keys.

    A twin has its topic key's type, bounds and default, except for the few of the table, where
    Kafka's differ: a time in several units has its default on one of them, and a retention of 0
    is refused on the broker.
    """
    differing: dict[str, dict[str, Any]] = {
        "log.retention.ms": {"default": None, "is_unset": True, "at_least": None},
        "log.retention.minutes": {
            "kind": Kind.INT,
            "default": None,
            "is_unset": True,
            "at_least": None,
        },
        "log.retention.hours": {"kind": Kind.INT, "default": 168, "at_least": None},
        "log.roll.ms": {"default": None},
        "log.roll.hours": {"kind": Kind.INT, "default": 168},
        "log.roll.jitter.ms": {"default": None},
        "log.roll.jitter.hours": {"kind": Kind.INT, "default": 0},
        "log.flush.interval.ms": {"default": None},
        "log.message.format.version": {"default": "3.0-IV1"},
    }
    twins: dict[str, Setting] = {}
    for declared in TOPIC_SETTINGS.values():
        for index, (synonym, _) in enumerate(declared.synonyms):
            is_dynamic = index == 0 and synonym != "log.message.format.version"
            twins[synonym] = attrs.evolve(
                declared,
                key=synonym,
                synonyms=(),
                mode=Mode.CLUSTER if is_dynamic else Mode.STATIC,
                doc=f"Default of the topic setting {declared.key}. {declared.doc}",
                **differing.get(synonym, {}),
            )
    return twins


LOG_DEFAULT_SETTINGS: Final[Mapping[str, Setting]] = MappingProxyType(_log_defaults())
"""Every broker key that is a topic key's default."""


# ---------------------------------------------------------------------------------- broker


def _required(key: str, kind: Kind, default: Any, doc: str, **bounds: Any) -> Any:
    """A setting whose field holds something worked out by `BrokerConfig.parse`, not its text."""
    declared = Setting(key=key, kind=kind, default=default, doc=doc, **bounds)
    return attrs.field(metadata={_SETTING: declared})


@attrs.frozen(kw_only=True)
class BrokerConfig:
    """One broker's settings. Made by `parse`, which checks them; never changed afterwards.

    Dynamic values from ZooKeeper are not in here: see `zkafka/server/configs.py`.
    """

    # Identity, ZooKeeper, core.
    zookeeper_connect: str = _required(
        "zookeeper.connect", Kind.STRING, None,
        "ZooKeeper servers and chroot: host:port,host:port/chroot.",
    )  # fmt: skip
    zookeeper_session_timeout_ms: int = setting(
        "zookeeper.session.timeout.ms", Kind.INT, 18_000,
        "Session timeout asked of ZooKeeper; a broker silent for longer counts as dead.",
        at_least=1,
    )  # fmt: skip
    zookeeper_connection_timeout_ms: int = _required(
        "zookeeper.connection.timeout.ms", Kind.INT, None,
        "Longest wait for the first connection; the session timeout where it is not set.",
    )  # fmt: skip
    broker_id: int = setting(
        "broker.id", Kind.INT, -1,
        "This broker's id; -1 to have one generated and kept in meta.properties.",
    )  # fmt: skip
    broker_id_generation_enable: bool = setting(
        "broker.id.generation.enable", Kind.BOOLEAN, True,
        "Whether a broker without an id may take a generated one.",
    )  # fmt: skip
    reserved_broker_max_id: int = setting(
        "reserved.broker.max.id", Kind.INT, 1000,
        "Largest id that may be configured; generated ids begin above it.",
        at_least=0,
    )  # fmt: skip
    broker_rack: str | None = setting(
        "broker.rack", Kind.STRING, None,
        "Rack of this broker; new topics spread their replicas over racks.",
    )  # fmt: skip
    log_dirs: tuple[str, ...] = _required(
        "log.dirs", Kind.STRING, None,
        "Data directories, comma separated; log.dir where it is not set.",
    )  # fmt: skip
    log_dir: str = setting(
        "log.dir", Kind.STRING, "/tmp/kafka-logs",
        "The data directory, used where log.dirs is not set.",
    )  # fmt: skip
    delete_topic_enable: bool = setting(
        "delete.topic.enable", Kind.BOOLEAN, True, "Whether topics may be deleted.",
    )  # fmt: skip
    auto_create_topics_enable: bool = setting(
        "auto.create.topics.enable", Kind.BOOLEAN, True,
        "Whether asking for an unknown topic's metadata creates it, where the client allows that.",
    )  # fmt: skip
    num_partitions: int = setting(
        "num.partitions", Kind.INT, 1,
        "Partitions of a topic whose creator leaves the count open.",
        at_least=1,
    )  # fmt: skip
    default_replication_factor: int = setting(
        "default.replication.factor", Kind.INT, 1,
        "Replicas of a topic whose creator leaves the count open.",
    )  # fmt: skip
    controlled_shutdown_enable: bool = setting(
        "controlled.shutdown.enable", Kind.BOOLEAN, True,
        "Whether leadership is handed over before the broker stops.",
    )  # fmt: skip
    controlled_shutdown_max_retries: int = setting(
        "controlled.shutdown.max.retries", Kind.INT, 3,
        "How often handing over leadership is tried.",
    )  # fmt: skip
    controlled_shutdown_retry_backoff_ms: int = setting(
        "controlled.shutdown.retry.backoff.ms", Kind.LONG, 5000, "Pause between those tries.",
    )  # fmt: skip

    # Listeners, sockets, threads.
    listeners: tuple[Endpoint, ...] = _required(
        "listeners", Kind.STRING, "PLAINTEXT://:9092",
        "Where the broker listens: NAME://host:port, comma separated; an empty host is every "
        "interface, port 0 any free port.",
    )  # fmt: skip
    advertised_listeners: tuple[Endpoint, ...] = _required(
        "advertised.listeners", Kind.STRING, None,
        "What clients and brokers are told to connect to; the listeners where it is not set.",
    )  # fmt: skip
    listener_security_protocol_map: Mapping[str, str] = _required(
        "listener.security.protocol.map", Kind.STRING,
        "PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL",
        "Security protocol of each listener name.",
    )  # fmt: skip
    inter_broker_listener_name: str = _required(
        "inter.broker.listener.name", Kind.STRING, None,
        "Listener over which brokers speak to each other.",
    )  # fmt: skip
    security_inter_broker_protocol: str = setting(
        "security.inter.broker.protocol", Kind.STRING, "PLAINTEXT",
        "Names the listener between brokers where inter.broker.listener.name is not set.",
        one_of=("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"),
    )  # fmt: skip
    background_threads: int = setting(
        "background.threads", Kind.INT, 10,
        "Worker threads for blocking file work: fsync, cold reads, recovery, deletion.",
        at_least=1,
    )  # fmt: skip
    num_replica_alter_log_dirs_threads: int = _required(
        "num.replica.alter.log.dirs.threads", Kind.INT, None,
        "Replicas moved between log directories at a time; as many as there are directories where "
        "it is not set.",
        at_least=1,
    )  # fmt: skip
    replica_alter_log_dirs_io_max_bytes_per_second: int = setting(
        "replica.alter.log.dirs.io.max.bytes.per.second", Kind.LONG, LONG_MAX,
        "Bytes that all such moves of a broker may copy per second, together.",
        at_least=0, mode=Mode.CLUSTER,
    )  # fmt: skip
    num_recovery_threads_per_data_dir: int = setting(
        "num.recovery.threads.per.data.dir", Kind.INT, 1,
        "Threads for each log directory that load and recover its logs at start; those that "
        "flush them at the stop are at least eight.",
        at_least=1,
    )  # fmt: skip
    queued_max_requests: int = setting(
        "queued.max.requests", Kind.INT, 500,
        "Requests of one connection that may wait for their answers; then it is read no further.",
        at_least=1,
    )  # fmt: skip
    queued_max_request_bytes: int = setting(
        "queued.max.request.bytes", Kind.LONG, -1,
        "Bytes of those requests; -1 for one request of the largest size.",
    )  # fmt: skip
    socket_request_max_bytes: int = setting(
        "socket.request.max.bytes", Kind.INT, 100 * MIB,
        "Largest request; a longer one closes its connection.",
        at_least=1,
    )  # fmt: skip
    socket_send_buffer_bytes: int = setting(
        "socket.send.buffer.bytes", Kind.INT, 100 * KIB,
        "SO_SNDBUF of client connections; -1 for the system's default.",
    )  # fmt: skip
    socket_receive_buffer_bytes: int = setting(
        "socket.receive.buffer.bytes", Kind.INT, 100 * KIB,
        "SO_RCVBUF of client connections; -1 for the system's default.",
    )  # fmt: skip
    socket_listen_backlog_size: int = setting(
        "socket.listen.backlog.size", Kind.INT, 50,
        "Connections the kernel holds before they are accepted.",
        at_least=1,
    )  # fmt: skip
    max_connections: int = setting(
        "max.connections", Kind.INT, INT_MAX,
        "Open connections at which the broker stops accepting.",
        at_least=0,
    )  # fmt: skip
    max_connections_per_ip: int = setting(
        "max.connections.per.ip", Kind.INT, INT_MAX,
        "Connections of one address above which a new one is closed at once.",
        at_least=0,
    )  # fmt: skip
    max_connections_per_ip_overrides: Mapping[str, int] = _required(
        "max.connections.per.ip.overrides", Kind.STRING, "",
        "Other limits for some addresses: host:count, comma separated.",
    )  # fmt: skip
    connections_max_idle_ms: int | None = setting(
        "connections.max.idle.ms", Kind.LONG, 10 * MINUTES_MS,
        "Silence after which a connection is closed; negative for never.",
        negative_is_none=True,
    )  # fmt: skip

    # Replication and controller.
    replica_lag_time_max_ms: int = setting(
        "replica.lag.time.max.ms", Kind.LONG, 30_000,
        "A follower not caught up for this long leaves the in-sync replicas.",
    )  # fmt: skip
    replica_fetch_wait_max_ms: int = setting(
        "replica.fetch.wait.max.ms", Kind.INT, 500,
        "How long a leader may hold a follower's fetch that finds nothing.",
    )  # fmt: skip
    replica_fetch_min_bytes: int = setting(
        "replica.fetch.min.bytes", Kind.INT, 1, "Bytes for which a follower's fetch waits.",
    )  # fmt: skip
    replica_fetch_max_bytes: int = setting(
        "replica.fetch.max.bytes", Kind.INT, MIB,
        "Bytes a follower asks for per partition; one whole batch comes in any case.",
        at_least=0,
    )  # fmt: skip
    replica_fetch_response_max_bytes: int = setting(
        "replica.fetch.response.max.bytes", Kind.INT, 10 * MIB,
        "Bytes a follower asks for in one fetch.",
        at_least=0,
    )  # fmt: skip
    replica_fetch_backoff_ms: int = setting(
        "replica.fetch.backoff.ms", Kind.INT, 1000,
        "Pause of a follower after a failed fetch.",
        at_least=0,
    )  # fmt: skip
    replica_socket_timeout_ms: int = setting(
        "replica.socket.timeout.ms", Kind.INT, 30_000,
        "How long a follower waits for a leader's answer.",
    )  # fmt: skip
    replica_socket_receive_buffer_bytes: int = setting(
        "replica.socket.receive.buffer.bytes", Kind.INT, 64 * KIB,
        "SO_RCVBUF of a follower's connections; -1 for the system's default.",
    )  # fmt: skip
    num_replica_fetchers: int = setting(
        "num.replica.fetchers", Kind.INT, 1,
        "Fetching tasks per leader followed.",
        at_least=1,
    )  # fmt: skip
    replica_high_watermark_checkpoint_interval_ms: int = setting(
        "replica.high.watermark.checkpoint.interval.ms", Kind.LONG, 5000,
        "How often high watermarks are written to disk.",
    )  # fmt: skip
    auto_leader_rebalance_enable: bool = setting(
        "auto.leader.rebalance.enable", Kind.BOOLEAN, True,
        "Whether the controller gives leadership back to preferred leaders from time to time.",
    )  # fmt: skip
    leader_imbalance_check_interval_seconds: int = setting(
        "leader.imbalance.check.interval.seconds", Kind.LONG, 300,
        "How often it looks for that.",
        at_least=1,
    )  # fmt: skip
    leader_imbalance_per_broker_percentage: int = setting(
        "leader.imbalance.per.broker.percentage", Kind.INT, 10,
        "Share of a broker's partitions led by another above which it acts.",
    )  # fmt: skip
    request_timeout_ms: int = setting(
        "request.timeout.ms", Kind.INT, 30_000,
        "How long the replicas have to take a transaction's marker.",
    )  # fmt: skip
    controller_socket_timeout_ms: int = setting(
        "controller.socket.timeout.ms", Kind.INT, 30_000,
        "How long the controller waits for a broker's answer.",
    )  # fmt: skip
    max_incremental_fetch_session_cache_slots: int = setting(
        "max.incremental.fetch.session.cache.slots", Kind.INT, 1000,
        "Incremental fetch sessions kept.",
        at_least=0,
    )  # fmt: skip
    fetch_max_bytes: int = setting(
        "fetch.max.bytes", Kind.INT, 55 * MIB,
        "Most bytes in the answer to any fetch.",
        at_least=1024,
    )  # fmt: skip

    # Logs: what is not a topic setting's default.
    log_retention_check_interval_ms: int = setting(
        "log.retention.check.interval.ms", Kind.LONG, 5 * MINUTES_MS,
        "How often retention looks for segments to delete.",
        at_least=1,
    )  # fmt: skip
    log_cleaner_enable: bool = setting(
        "log.cleaner.enable", Kind.BOOLEAN, True,
        "Whether topics with cleanup.policy=compact are compacted; false keeps them whole.",
    )  # fmt: skip
    log_cleaner_threads: int = setting(
        "log.cleaner.threads", Kind.INT, 1,
        "Logs compacted at the same time.",
        at_least=0, mode=Mode.CLUSTER,
    )  # fmt: skip
    log_cleaner_dedupe_buffer_size: int = setting(
        "log.cleaner.dedupe.buffer.size", Kind.LONG, 128 * MIB,
        "Bytes for the keys noted by all compactions, 176 for each key; a log with more keys is "
        "compacted in several rounds.",
        mode=Mode.CLUSTER,
    )  # fmt: skip
    log_cleaner_io_buffer_size: int = setting(
        "log.cleaner.io.buffer.size", Kind.INT, 512 * KIB,
        "Bytes read and written at once, of all compactions.",
        at_least=0, mode=Mode.CLUSTER,
    )  # fmt: skip
    log_cleaner_io_buffer_load_factor: float = setting(
        "log.cleaner.io.buffer.load.factor", Kind.DOUBLE, 0.9,
        "Share of the dedupe buffer that may be filled.",
        mode=Mode.CLUSTER,
    )  # fmt: skip
    log_cleaner_io_max_bytes_per_second: float = setting(
        "log.cleaner.io.max.bytes.per.second", Kind.DOUBLE, DOUBLE_MAX,
        "Bytes that all compactions together read and write per second.",
        mode=Mode.CLUSTER,
    )  # fmt: skip
    log_cleaner_backoff_ms: int = setting(
        "log.cleaner.backoff.ms", Kind.LONG, 15_000,
        "Pause before logs are looked at again when there was nothing to compact.",
        at_least=0, mode=Mode.CLUSTER,
    )  # fmt: skip
    log_flush_offset_checkpoint_interval_ms: int = setting(
        "log.flush.offset.checkpoint.interval.ms", Kind.INT, MINUTES_MS,
        "How often recovery points are written to disk.",
        at_least=0,
    )  # fmt: skip
    log_flush_start_offset_checkpoint_interval_ms: int = setting(
        "log.flush.start.offset.checkpoint.interval.ms", Kind.INT, MINUTES_MS,
        "How often log start offsets are written to disk.",
        at_least=0,
    )  # fmt: skip

    # Groups and offsets.
    group_min_session_timeout_ms: int = setting(
        "group.min.session.timeout.ms", Kind.INT, 6000, "Shortest session timeout of a member.",
    )  # fmt: skip
    group_max_session_timeout_ms: int = setting(
        "group.max.session.timeout.ms", Kind.INT, 30 * MINUTES_MS,
        "Longest session timeout of a member.",
    )  # fmt: skip
    group_initial_rebalance_delay_ms: int = setting(
        "group.initial.rebalance.delay.ms", Kind.INT, 3000,
        "How long an empty group waits for more members before its first rebalance.",
    )  # fmt: skip
    group_max_size: int = setting(
        "group.max.size", Kind.INT, INT_MAX, "Most members of a group.", at_least=1,
    )  # fmt: skip
    offset_metadata_max_bytes: int = setting(
        "offset.metadata.max.bytes", Kind.INT, 4096, "Longest text beside a committed offset.",
    )  # fmt: skip
    offsets_topic_num_partitions: int = setting(
        "offsets.topic.num.partitions", Kind.INT, 50,
        "Partitions of __consumer_offsets; changing it later moves groups.",
        at_least=1,
    )  # fmt: skip
    offsets_topic_replication_factor: int = setting(
        "offsets.topic.replication.factor", Kind.SHORT, 3,
        "Replicas of __consumer_offsets; it is not created while fewer brokers live.",
        at_least=1,
    )  # fmt: skip
    offsets_topic_segment_bytes: int = setting(
        "offsets.topic.segment.bytes", Kind.INT, 100 * MIB,
        "Segment size of __consumer_offsets.",
        at_least=1,
    )  # fmt: skip
    offsets_topic_compression_codec: int = setting(
        "offsets.topic.compression.codec", Kind.INT, 0,
        "Codec of the coordinator's batches: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.",
        at_least=0, at_most=4,
    )  # fmt: skip
    offsets_load_buffer_size_bytes: int = setting(
        "offsets.load.buffer.size", Kind.INT, 5 * MIB,
        "Bytes read at a time while a coordinator loads its groups.",
        at_least=1,
    )  # fmt: skip
    offsets_retention_minutes: int = setting(
        "offsets.retention.minutes", Kind.INT, 7 * 24 * 60,
        "How long the offsets of an idle group are kept.",
        at_least=1,
    )  # fmt: skip
    offsets_retention_check_interval_ms: int = setting(
        "offsets.retention.check.interval.ms", Kind.LONG, 10 * MINUTES_MS,
        "How often expired offsets are looked for.",
        at_least=1,
    )  # fmt: skip
    offsets_commit_timeout_ms: int = setting(
        "offsets.commit.timeout.ms", Kind.INT, 5000,
        "How long a commit waits for its replicas.",
        at_least=1,
    )  # fmt: skip
    offsets_commit_required_acks: int = setting(
        "offsets.commit.required.acks", Kind.SHORT, -1,
        "Acknowledgements a commit waits for; -1 for all in-sync replicas, the only value served.",
        at_least=-1, at_most=-1,
    )  # fmt: skip

    # Transactions and idempotence.
    transaction_state_log_num_partitions: int = setting(
        "transaction.state.log.num.partitions", Kind.INT, 50,
        "Partitions of __transaction_state.",
        at_least=1,
    )  # fmt: skip
    transaction_state_log_replication_factor: int = setting(
        "transaction.state.log.replication.factor", Kind.SHORT, 3,
        "Replicas of __transaction_state.",
        at_least=1,
    )  # fmt: skip
    transaction_state_log_min_isr: int = setting(
        "transaction.state.log.min.isr", Kind.INT, 2,
        "min.insync.replicas of __transaction_state.",
        at_least=1,
    )  # fmt: skip
    transaction_state_log_segment_bytes: int = setting(
        "transaction.state.log.segment.bytes", Kind.INT, 100 * MIB,
        "Segment size of __transaction_state.",
        at_least=1,
    )  # fmt: skip
    transaction_max_timeout_ms: int = setting(
        "transaction.max.timeout.ms", Kind.INT, 15 * MINUTES_MS,
        "Longest transaction timeout a producer may ask for.",
        at_least=1,
    )  # fmt: skip
    producer_id_expiration_ms: int = setting(
        "producer.id.expiration.ms", Kind.INT, DAYS_MS,
        "How long a partition remembers an idle idempotent producer.",
        at_least=1,
    )  # fmt: skip

    # Ours.
    admin_listener: Endpoint | None = _required(  # noqa: RUF009, a field as the others
        "zkafka.admin.listener", Kind.STRING, "",
        "host:port of the operator's HTTP port (metrics, health); empty for none. Ours: Kafka "
        "exports JMX instead.",
    )  # fmt: skip
    bind_address: str = setting(
        "zkafka.bind.address", Kind.STRING, "",
        "Local address of this broker's connections to its peers; empty lets the kernel choose. "
        "Ours: it tells brokers on one machine apart, and picks an interface on a larger one.",
    )  # fmt: skip
    broker_suspicion_timeout_ms: int = setting(
        "zkafka.broker.suspicion.timeout.ms", Kind.INT, 200,
        "How long a broker whose connection has ended must refuse new ones until it is taken for "
        "dead, before its ZooKeeper session has ended; 0 or less: never. Ours: Kafka always waits "
        "for the session.",
    )  # fmt: skip

    # Worked out.
    log_defaults: LogConfig
    """What a topic without overrides gets from the static file."""
    properties: Mapping[str, str]
    """The static settings as they were written, every key."""
    unknown_keys: tuple[str, ...] = ()
    """Keys that are no setting of ours or of Kafka's; report them once."""
    ignored_keys: tuple[str, ...] = ()
    """Kafka's keys that are set and have no effect here; report them once."""

    @classmethod
    def parse(cls, properties: Mapping[str, str]) -> "BrokerConfig":
        """The configuration that a properties file describes.

        Errors: `ConfigError` for a bad value or a contradiction, with the key, the value and what
        is allowed. Unknown keys and keys without effect are no errors.
        """
        values: dict[str, Any] = {}
        for key, (name, declared) in _settings_of(cls).items():
            text = properties.get(key)
            values[name] = declared.default if text is None else declared.parse(text)
        _refuse_missing_protections(properties)
        log_defaults = LogConfig.from_broker_properties(properties)
        values["log_defaults"] = log_defaults
        values["properties"] = MappingProxyType(dict(properties))
        values["unknown_keys"] = tuple(sorted(k for k in properties if not _is_known(k)))
        values["ignored_keys"] = tuple(sorted(k for k in properties if _is_ignored(k)))
        _work_out(values, properties)
        _cross_check(values, properties)
        return cls(**values)

    def with_dynamic(self, values: Mapping[str, str]) -> "BrokerConfig":
        """The configuration with those of `values` laid over it that may be altered while the
        broker runs. Errors: `ConfigError`, as `parse`."""
        laid_over = {key: text for key, text in values.items() if is_dynamic(key)}
        return BrokerConfig.parse({**self.properties, **laid_over})

    def advertised(self, host_name: str, bound_ports: Mapping[str, int]) -> tuple[Endpoint, ...]:
        """What to register: an empty host becomes `host_name`, and port 0 the port that the
        listener of that name was given (`bound_ports`)."""
        return tuple(
            attrs.evolve(
                endpoint,
                host=endpoint.host or host_name,
                port=endpoint.port or bound_ports[endpoint.listener],
            )
            for endpoint in self.advertised_listeners
        )


_BROKER_NAMES: Final = {key: name for key, (name, _) in _settings_of(BrokerConfig).items()}


def _without_effect() -> dict[str, Setting]:
    """Kafka's keys that are accepted and do nothing here, with the reason as their text."""
    threads = "Without effect: one trio loop serves every connection."
    trigger = "Without effect: a waiting request is a sleeping task, and nothing needs purging."
    quotas = "Without effect: requests of clients are not throttled."
    tls = "Without effect: listeners speak PLAINTEXT."
    transactions = "Without effect: transactional ids are not served."
    tokens = "Without effect: there are no delegation tokens."
    jmx = "Without effect: metrics are exported over HTTP, see zkafka.admin.listener."
    rows: list[tuple[str, Kind, Any, str]] = [
        ("num.network.threads", Kind.INT, 3, threads),
        ("num.io.threads", Kind.INT, 8, threads),
        ("zookeeper.max.in.flight.requests", Kind.INT, 10,
         "Without effect: requests are sent as they come; bulk work limits itself."),
        ("fetch.purgatory.purge.interval.requests", Kind.INT, 1000, trigger),
        ("producer.purgatory.purge.interval.requests", Kind.INT, 1000, trigger),
        ("delete.records.purgatory.purge.interval.requests", Kind.INT, 1, trigger),
        ("max.connection.creation.rate", Kind.INT, INT_MAX, "Without effect: accepts are free."),
        ("connection.failed.authentication.delay.ms", Kind.INT, 100, tls),
        ("max.request.partition.size.limit", Kind.INT, 2000, "Without effect: KRaft only."),
        ("log.dir.failure.timeout.ms", Kind.LONG, 30_000, "Without effect: KRaft only."),
        ("inter.broker.protocol.version", Kind.STRING, "3.9-IV0",
         "Without effect: brokers speak the versions of 3.9 to each other."),
        ("replica.selector.class", Kind.CLASS, None,
         "Without effect: consumers are sent to leaders."),
        ("group.coordinator.rebalance.protocols", Kind.LIST, ("classic",),
         "Without effect: classic, as in every ZooKeeper cluster."),
        ("transaction.state.log.load.buffer.size", Kind.INT, 5 * MIB, transactions),
        ("transactional.id.expiration.ms", Kind.INT, 7 * DAYS_MS, transactions),
        ("transaction.abort.timed.out.transaction.cleanup.interval.ms", Kind.INT, 10_000,
         transactions),
        ("transaction.remove.expired.transaction.cleanup.interval.ms", Kind.INT, HOURS_MS,
         transactions),
        ("transaction.partition.verification.enable", Kind.BOOLEAN, True, transactions),
        ("quota.window.num", Kind.INT, 11, quotas),
        ("quota.window.size.seconds", Kind.INT, 1, quotas),
        ("replication.quota.window.num", Kind.INT, 11, quotas),
        ("replication.quota.window.size.seconds", Kind.INT, 1, quotas),
        ("alter.log.dirs.replication.quota.window.num", Kind.INT, 11, quotas),
        ("alter.log.dirs.replication.quota.window.size.seconds", Kind.INT, 1, quotas),
        ("controller.quota.window.num", Kind.INT, 11, quotas),
        ("controller.quota.window.size.seconds", Kind.INT, 1, quotas),
        ("client.quota.callback.class", Kind.CLASS, None, quotas),
        ("delegation.token.secret.key", Kind.PASSWORD, None, tokens),
        ("delegation.token.master.key", Kind.PASSWORD, None, tokens),
        ("delegation.token.max.lifetime.ms", Kind.LONG, 7 * DAYS_MS, tokens),
        ("delegation.token.expiry.time.ms", Kind.LONG, DAYS_MS, tokens),
        ("delegation.token.expiry.check.interval.ms", Kind.LONG, HOURS_MS, tokens),
        ("metric.reporters", Kind.LIST, (), jmx),
        ("metrics.num.samples", Kind.INT, 2, jmx),
        ("metrics.sample.window.ms", Kind.LONG, 30_000, jmx),
        ("metrics.recording.level", Kind.STRING, "INFO", jmx),
        ("auto.include.jmx.reporter", Kind.BOOLEAN, True, jmx),
        ("connections.max.reauth.ms", Kind.LONG, 0, tls),
        ("principal.builder.class", Kind.CLASS, None, tls),
        ("password.encoder.secret", Kind.PASSWORD, None, tls),
        ("password.encoder.old.secret", Kind.PASSWORD, None, tls),
        ("password.encoder.cipher.algorithm", Kind.STRING, "AES/CBC/PKCS5Padding", tls),
        ("password.encoder.key.length", Kind.INT, 128, tls),
        ("password.encoder.iterations", Kind.INT, 4096, tls),
    ]  # fmt: skip
    return {
        key: Setting(key=key, kind=kind, default=default, doc=doc)
        for key, kind, default, doc in rows
    }


WITHOUT_EFFECT: Final[Mapping[str, Setting]] = MappingProxyType(_without_effect())
"""Kafka's keys that are accepted and do nothing here; their text says why."""

_WITHOUT_EFFECT_PREFIXES: Final = (
    "ssl.", "sasl.", "zookeeper.ssl.", "zookeeper.clientCnxnSocket", "listener.name.",
    "super.users", "allow.everyone.if.no.acl.found", "authorizer.zookeeper.", "remote.log.",
    "log.local.retention.", "group.consumer.", "telemetry.",
)  # fmt: skip
"""Whole families of keys that mean nothing without TLS, SASL, ACLs or tiered storage. Their
values may be secrets, so they are never shown."""

_PROTECTIONS: Final = {
    "authorizer.class.name": ("", "requests are not authorized"),
    "zookeeper.set.acl": ("false", "znodes are created open"),
    "zookeeper.ssl.client.enable": ("false", "ZooKeeper is reached without TLS"),
    "create.topic.policy.class.name": ("", "policies are not run"),
    "alter.config.policy.class.name": ("", "policies are not run"),
    "control.plane.listener.name": ("", "there is one listener between brokers"),
}
"""Keys that ask for a protection we do not have: key -> (the only value accepted, why). An operator
who asked for it must not find out later that it was not there."""


def _refuse_missing_protections(properties: Mapping[str, str]) -> None:
    for key, (only, why) in _PROTECTIONS.items():
        text = properties.get(key, only).strip()
        if text.lower() != only:
            shown = only or "nothing (remove the key)"
            raise ConfigError(f"{key}={text!r} is not allowed: it must be {shown}, since {why}")


BROKER_SETTINGS: Final[Mapping[str, Setting]] = MappingProxyType(
    {
        **{key: declared for key, (_, declared) in _settings_of(BrokerConfig).items()},
        **LOG_DEFAULT_SETTINGS,
        **WITHOUT_EFFECT,
        **{
            key: Setting(
                key=key,
                kind=Kind.BOOLEAN if only else Kind.CLASS,
                default=only == "true" if only else "",
                doc=f"Only {only or 'empty'} is accepted: {why}.",
            )
            for key, (only, why) in _PROTECTIONS.items()
        },
    }
)
"""Every broker key, for DescribeConfigs."""


def is_dynamic(key: str) -> bool:
    """Whether a broker key may be altered while the broker runs."""
    return key in BROKER_SETTINGS and BROKER_SETTINGS[key].mode is not Mode.STATIC


THROTTLE_KEYS: Final = frozenset(
    {
        "leader.replication.throttled.rate",
        "follower.replication.throttled.rate",
    }
)
"""Kafka's broker keys that exist in ZooKeeper only. Refused there, since nothing between brokers is
throttled."""


def is_family_without_effect(key: str) -> bool:
    """Whether `key` is one of Kafka's TLS, SASL, ACL, per-listener or tiered-storage keys."""
    return key.startswith(_WITHOUT_EFFECT_PREFIXES)


def _is_known(key: str) -> bool:
    return key in BROKER_SETTINGS or is_family_without_effect(key)


def _is_ignored(key: str) -> bool:
    return key in WITHOUT_EFFECT or is_family_without_effect(key)


# ------------------------------------------------------------------- listeners and cross checks

_LISTENER = re.compile(
    r"(?P<name>[A-Za-z0-9_.-]+)://"
    r"(?:\[(?P<ipv6>[0-9A-Fa-f:.%]+)\]|(?P<host>[^\[\]:/,\s]*)):(?P<port>[0-9]{1,5})"
)


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _parse_listeners(
    key: str, text: str, protocols: Mapping[str, str], *, least_port: int
) -> tuple[Endpoint, ...]:
    """Endpoints of `NAME://host:port,...`. Errors: `ConfigError`."""
    endpoints = []
    for item in _items(text):
        match = _LISTENER.fullmatch(item)
        port = int(match["port"]) if match else -1
        if match is None or not least_port <= port <= 65535:
            raise ConfigError(
                f"{key}={text!r} is not allowed: {item!r} must be NAME://host:port "
                f"with a port from {least_port} to 65535 and an IPv6 host in brackets"
            )
        name = match["name"].upper()
        if name not in protocols:
            raise ConfigError(
                f"{key}={text!r} is not allowed: listener.security.protocol.map has no entry "
                f"for {name}, it names {', '.join(sorted(protocols))}"
            )
        if protocols[name] != "PLAINTEXT":
            raise ConfigError(
                f"{key}={text!r} is not allowed: listener {name} has the security protocol "
                f"{protocols[name]}, and only PLAINTEXT is available"
            )
        host = match["ipv6"] or match["host"] or ""
        endpoints.append(Endpoint(name, host, port, protocols[name]))
    if not endpoints:
        raise ConfigError(f"{key}={text!r} is not allowed: at least one listener is needed")
    names = [endpoint.listener for endpoint in endpoints]
    if len(set(names)) < len(names):
        raise ConfigError(f"{key}={text!r} is not allowed: listener names must differ")
    return tuple(endpoints)


def _check_ports(text: str, listeners: Sequence[Endpoint]) -> None:
    """Ports differ, but for one IPv4 and one IPv6 address on the same port, and for port 0."""
    by_port: dict[int, list[bool]] = {}
    for endpoint in listeners:
        if endpoint.port:
            by_port.setdefault(endpoint.port, []).append(":" in endpoint.host)
    for port, families in by_port.items():
        if len(families) > 2 or (len(families) == 2 and families[0] == families[1]):
            raise ConfigError(f"listeners={text!r} is not allowed: port {port} is named twice")


def _parse_protocols(text: str) -> Mapping[str, str]:
    protocols: dict[str, str] = {}
    allowed = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
    for item in _items(text):
        name, colon, protocol = item.partition(":")
        if not colon or protocol.strip().upper() not in allowed or not name.strip():
            raise ConfigError(
                f"listener.security.protocol.map={text!r} is not allowed: {item!r} must be "
                f"NAME:PROTOCOL with one of {', '.join(allowed)}"
            )
        protocols[name.strip().upper()] = protocol.strip().upper()
    return MappingProxyType(protocols)


def _parse_ip_overrides(text: str) -> Mapping[str, int]:
    limits: dict[str, int] = {}
    for item in _items(text):
        host, colon, count = item.rpartition(":")
        if not colon or not host or re.fullmatch(r"[0-9]{1,10}", count) is None:
            raise ConfigError(
                f"max.connections.per.ip.overrides={text!r} is not allowed: "
                f"{item!r} must be host:count"
            )
        limits[host.strip("[]")] = int(count)
    return MappingProxyType(limits)


def _parse_admin(text: str) -> Endpoint | None:
    if not text:
        return None
    match = _LISTENER.fullmatch(f"ADMIN://{text}")
    if match is None or int(match["port"]) > 65535:
        raise ConfigError(
            f"zkafka.admin.listener={text!r} is not allowed: it must be host:port, or empty"
        )
    return Endpoint("ADMIN", match["ipv6"] or match["host"] or "", int(match["port"]))


def _work_out(values: dict[str, Any], properties: Mapping[str, str]) -> None:
    """Replace the texts of the structured settings by what they describe."""
    if not values["zookeeper_connect"]:
        raise ConfigError(
            "zookeeper.connect is not set: it must be host:port,host:port/chroot of ZooKeeper"
        )
    if values["zookeeper_connection_timeout_ms"] is None:
        values["zookeeper_connection_timeout_ms"] = values["zookeeper_session_timeout_ms"]
    dirs = values["log_dirs"] if values["log_dirs"] is not None else values["log_dir"]
    values["log_dirs"] = tuple(_items(dirs))
    if values["num_replica_alter_log_dirs_threads"] is None:
        values["num_replica_alter_log_dirs_threads"] = max(1, len(values["log_dirs"]))
    protocols = _parse_protocols(values["listener_security_protocol_map"])
    values["listener_security_protocol_map"] = protocols
    text = values["listeners"]
    values["listeners"] = _parse_listeners("listeners", text, protocols, least_port=0)
    _check_ports(text, values["listeners"])
    advertised = values["advertised_listeners"]
    values["advertised_listeners"] = (
        _parse_listeners("advertised.listeners", advertised, protocols, least_port=0)
        if advertised
        else values["listeners"]
    )
    if values["inter_broker_listener_name"] is None:
        values["inter_broker_listener_name"] = values["security_inter_broker_protocol"]
    else:
        values["inter_broker_listener_name"] = values["inter_broker_listener_name"].upper()
        if "security.inter.broker.protocol" in properties:
            raise ConfigError(
                "inter.broker.listener.name and security.inter.broker.protocol are both set: "
                "only one of them is allowed"
            )
    values["max_connections_per_ip_overrides"] = _parse_ip_overrides(
        values["max_connections_per_ip_overrides"]
    )
    values["admin_listener"] = _parse_admin(values["admin_listener"])


def _cross_check(values: Mapping[str, Any], properties: Mapping[str, str]) -> None:
    """Assert what holds between settings. Errors: `ConfigError`."""

    def need(holds: bool, key: str, allowed: str) -> None:
        if not holds:
            value = values[_BROKER_NAMES[key]]
            raise ConfigError(f"{key}={value} is not allowed: it must be {allowed}")

    broker_id, largest = values["broker_id"], values["reserved_broker_max_id"]
    if values["broker_id_generation_enable"]:
        need(
            -1 <= broker_id <= largest, "broker.id", f"from -1 to reserved.broker.max.id={largest}"
        )
    else:
        need(broker_id >= 0, "broker.id", "at least 0, since broker.id.generation.enable=false")
    need(bool(values["log_dirs"]), "log.dirs", "at least one directory")
    for key in ("log.retention.ms", "log.retention.minutes", "log.retention.hours"):
        if key in properties and LOG_DEFAULT_SETTINGS[key].parse(properties[key]) == 0:
            raise ConfigError(f"{key}=0 is not allowed: it must be -1 (unlimited) or at least 1")
    threads = values["log_cleaner_threads"]
    need(
        values["log_cleaner_dedupe_buffer_size"] > threads * MIB,
        "log.cleaner.dedupe.buffer.size",
        f"more than {MIB} for each of log.cleaner.threads={threads}",
    )
    wait = values["replica_fetch_wait_max_ms"]
    for other in ("replica.socket.timeout.ms", "replica.lag.time.max.ms"):
        limit = values[_BROKER_NAMES[other]]
        need(wait <= limit, "replica.fetch.wait.max.ms", f"at most {other}={limit}")
    _cross_check_listeners(values)
    need(
        values["queued_max_request_bytes"] <= 0
        or values["queued_max_request_bytes"] >= values["socket_request_max_bytes"],
        "queued.max.request.bytes",
        f"-1, or at least socket.request.max.bytes={values['socket_request_max_bytes']}",
    )
    need(
        values["max_connections_per_ip"] > 0 or bool(values["max_connections_per_ip_overrides"]),
        "max.connections.per.ip",
        "at least 1 without max.connections.per.ip.overrides",
    )
    need(
        values["group_min_session_timeout_ms"] <= values["group_max_session_timeout_ms"],
        "group.min.session.timeout.ms",
        f"at most group.max.session.timeout.ms={values['group_max_session_timeout_ms']}",
    )


def _cross_check_listeners(values: Mapping[str, Any]) -> None:
    names = [endpoint.listener for endpoint in values["listeners"]]
    advertised = [endpoint.listener for endpoint in values["advertised_listeners"]]
    for endpoint in values["advertised_listeners"]:
        if endpoint.listener not in names:
            raise ConfigError(
                f"advertised.listeners={endpoint} is not allowed: it must name one of the "
                f"listeners {', '.join(names)}"
            )
        if endpoint.host in ("0.0.0.0", "::"):
            raise ConfigError(
                f"advertised.listeners={endpoint} is not allowed: it must be an address "
                f"that clients can connect to; set advertised.listeners"
            )
    between = values["inter_broker_listener_name"]
    if between not in advertised:
        raise ConfigError(
            f"inter.broker.listener.name={between} is not allowed: it must be one of the "
            f"advertised listeners {', '.join(advertised)}"
        )


# ------------------------------------------------------------------------------ reading settings

ENVIRONMENT_PREFIX: Final = "ZKAFKA_"


def merge_properties(
    text: str, overrides: Iterable[str] = (), environment: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Settings of a properties file's `text`, of the environment, and of `key=value` overrides;
    what comes later in that order wins.

    A variable `ZKAFKA_LOG_DIRS` is the key `log.dirs`; two underscores stand for a dash and three
    for an underscore; keys of ours need no second prefix (`ZKAFKA_ADMIN_LISTENER`).
    Errors: `ConfigError` for an override without `=` and for a broken escape in the file.
    """
    try:
        merged = {key: value.strip() for key, value in javaproperties.loads(text).items()}
    except javaproperties.InvalidUEscapeError as error:
        raise ConfigError(f"the properties file has a broken escape: {error}") from error
    for name, value in sorted((environment or {}).items()):
        if name.startswith(ENVIRONMENT_PREFIX):
            merged[_key_of_variable(name.removeprefix(ENVIRONMENT_PREFIX))] = value.strip()
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--override {override!r} is not allowed: it must be key=value")
        merged[key.strip()] = value.strip()
    return merged


def _key_of_variable(name: str) -> str:
    key = name.lower().replace("___", "\0").replace("__", "-").replace("_", ".")
    key = key.replace("\0", "_")
    ours = f"zkafka.{key}"
    return ours if ours in BROKER_SETTINGS else key
