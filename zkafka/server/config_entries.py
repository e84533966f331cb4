"""What DescribeConfigs shows of a setting, and what AlterConfigs makes of it.

A setting's value comes from the first of several places that has one; each place has a number
(`Source`). For a topic's setting: the topic's override, then for each broker twin of the key
(finest unit of time first) this broker's dynamic value, the cluster's dynamic default, the
properties file, the built-in default. A broker's setting has the same places but for the first.

Refusals are `ApiError`: what is wrong with a topic's keys is INVALID_CONFIG, with a broker's keys
INVALID_REQUEST, as Kafka has it.

Source: `ConfigHelper`, `ConfigAdminManager`, `DynamicBrokerConfig` of Apache Kafka 3.9; KIP-133,
KIP-226, KIP-339 (incremental), KIP-569 (types and documentation).
"""

import enum
from collections.abc import Collection, Mapping, Sequence

import attrs

from zkafka.config import (
    BROKER_SETTINGS,
    THROTTLE_KEYS,
    TOPIC_SETTINGS,
    BrokerConfig,
    Kind,
    LogConfig,
    Setting,
    Value,
    is_dynamic,
    is_family_without_effect,
    text_of,
)
from zkafka.errors import ApiError, ConfigError, ErrorCode


class Source(enum.IntEnum):
    """Where a value comes from, as DescribeConfigs numbers it."""

    TOPIC = 1
    DYNAMIC_BROKER = 2
    DYNAMIC_DEFAULT = 3
    STATIC = 4
    DEFAULT = 5


class AlterOperation(enum.IntEnum):
    """What IncrementalAlterConfigs may do to a key."""

    SET = 0
    DELETE = 1
    APPEND = 2
    SUBTRACT = 3


@attrs.frozen
class Synonym:
    """One place that has a value, under the key it has there; None for a secret."""

    key: str
    value: str | None
    source: Source


@attrs.frozen(kw_only=True)
class Entry:
    """One setting as described. `synonyms` has every place with a value, the winner first."""

    key: str
    value: str | None
    source: Source
    read_only: bool
    is_sensitive: bool
    kind: int
    documentation: str
    synonyms: tuple[Synonym, ...] = ()


@attrs.frozen(kw_only=True)
class BrokerValues:
    """A broker's settings by place; each as text by key."""

    static: Mapping[str, str]
    dynamic_default: Mapping[str, str] = attrs.field(factory=dict)
    dynamic_broker: Mapping[str, str] = attrs.field(factory=dict)

    def merged(self) -> dict[str, str]:
        """What holds: the more special over the more general."""
        return {**self.static, **self.dynamic}

    @property
    def dynamic(self) -> dict[str, str]:
        """What was altered while brokers run."""
        return {**self.dynamic_default, **self.dynamic_broker}

    def synonyms(self, key: str) -> list[Synonym]:
        """The places that have a value for a broker's key, the winner first."""
        hidden = _is_hidden(key)
        places = [
            (self.dynamic_broker, Source.DYNAMIC_BROKER),
            (self.dynamic_default, Source.DYNAMIC_DEFAULT),
            (self.static, Source.STATIC),
        ]
        found = [
            Synonym(key, None if hidden else values[key], source)
            for values, source in places
            if key in values
        ]
        default = BROKER_SETTINGS[key].default_text if key in BROKER_SETTINGS else None
        if default is not None:
            found.append(Synonym(key, default, Source.DEFAULT))
        return found


def _is_hidden(key: str) -> bool:
    """Whether a value must not be shown: a password, or a key of which we do not know that it is
    none."""
    return key not in BROKER_SETTINGS or BROKER_SETTINGS[key].is_sensitive


# ------------------------------------------------------------------------------------ describing


def describe_topic(
    overrides: Mapping[str, str],
    broker: BrokerValues,
    effective: LogConfig,
    keys: Sequence[str] | None,
) -> list[Entry]:
    """A topic's settings; `keys` null or empty asks for all. Keys that are none are left out."""
    entries = []
    for key in _asked(TOPIC_SETTINGS, keys):
        declared = TOPIC_SETTINGS[key]
        synonyms = [Synonym(key, overrides[key], Source.TOPIC)] if key in overrides else []
        for twin, _ in declared.synonyms:
            synonyms.extend(broker.synonyms(twin))
        value = _shown(effective.value_of(key), declared)
        entries.append(
            Entry(
                key=key,
                value=value,
                source=synonyms[0].source if synonyms else Source.DEFAULT,
                read_only=False,
                is_sensitive=False,
                kind=declared.kind,
                documentation=declared.doc,
                synonyms=tuple(synonyms),
            )
        )
    return entries


def _shown(value: Value, declared: Setting) -> str | None:
    if value is None and declared.negative_is_none:
        return "-1"
    return text_of(value)


def describe_broker(broker: BrokerValues, keys: Sequence[str] | None) -> list[Entry]:
    """A broker's settings, its unknown ones included; `keys` null or empty asks for all."""
    known = dict.fromkeys([*BROKER_SETTINGS, *sorted(broker.merged())])
    entries = []
    for key in _asked(known, keys):
        synonyms = broker.synonyms(key)
        entries.append(_broker_entry(key, synonyms))
    return entries


def describe_broker_defaults(broker: BrokerValues, keys: Sequence[str] | None) -> list[Entry]:
    """The cluster's dynamic defaults, and nothing else."""
    return [
        _broker_entry(key, broker.synonyms(key), source=Source.DYNAMIC_DEFAULT)
        for key in _asked(dict.fromkeys(sorted(broker.dynamic_default)), keys)
    ]


def _broker_entry(key: str, synonyms: list[Synonym], source: Source | None = None) -> Entry:
    declared = BROKER_SETTINGS.get(key)
    if source is not None:
        synonyms = [synonym for synonym in synonyms if synonym.source >= source]
    return Entry(
        key=key,
        value=synonyms[0].value if synonyms else None,
        source=synonyms[0].source if synonyms else Source.DEFAULT,
        read_only=not is_dynamic(key),
        is_sensitive=_is_hidden(key),
        kind=0 if declared is None else declared.kind,
        documentation="" if declared is None else declared.doc,
        synonyms=tuple(synonyms),
    )


def _asked(known: Mapping[str, object], keys: Sequence[str] | None) -> list[str]:
    """The keys to describe, in the order in which they are known."""
    if not keys:
        return list(known)
    wanted = set(keys)
    return [key for key in known if key in wanted]


# -------------------------------------------------------------------------------------- altering


@attrs.frozen
class Alteration:
    """One key's change; `operation` is a number as it came."""

    key: str
    value: str | None
    operation: int = AlterOperation.SET


def altered(
    current: Mapping[str, str], alterations: Sequence[Alteration], settings: Mapping[str, Setting]
) -> dict[str, str]:
    """The overrides after the alterations, whose values are not checked here.

    Errors: `ApiError` INVALID_REQUEST for a key named twice, a missing value or an unknown
    operation, INVALID_CONFIG for appending to or subtracting from what is no list.
    """
    _refuse_malformed(alterations)
    result = dict(current)
    for alteration in alterations:
        key = alteration.key
        match AlterOperation(alteration.operation):
            case AlterOperation.SET:
                result[key] = alteration.value or ""
            case AlterOperation.DELETE:
                result.pop(key, None)
            case AlterOperation.APPEND:
                items = _list_items(result, key, settings)
                more = [item for item in _split(alteration.value) if item not in items]
                result[key] = ",".join([*items, *more])
            case AlterOperation.SUBTRACT:
                less = _split(alteration.value)
                items = _list_items(result, key, settings)
                result[key] = ",".join(item for item in items if item not in less)
    return result


def _refuse_malformed(alterations: Sequence[Alteration]) -> None:
    seen: set[str] = set()
    for alteration in alterations:
        key, operation = alteration.key, alteration.operation
        if key in seen:
            raise ApiError(ErrorCode.INVALID_REQUEST, f"{key} is named twice")
        seen.add(key)
        if operation not in list(AlterOperation):
            raise ApiError(ErrorCode.INVALID_REQUEST, f"unknown operation {operation} for {key}")
        if alteration.value is None and operation != AlterOperation.DELETE:
            raise ApiError(ErrorCode.INVALID_REQUEST, f"{key} has no value")


def _split(text: str | None) -> list[str]:
    return [item.strip() for item in (text or "").split(",") if item.strip()]


def _list_items(current: Mapping[str, str], key: str, settings: Mapping[str, Setting]) -> list[str]:
    """The items to append to or subtract from: the override's, else the built-in default's."""
    declared = settings.get(key)
    if declared is None or declared.kind is not Kind.LIST:
        raise ApiError(ErrorCode.INVALID_CONFIG, f"{key} is not a list: it can only be set")
    return _split(current.get(key, declared.default_text))


def check_topic_overrides(overrides: Mapping[str, str], defaults: LogConfig) -> None:
    """Errors: `ApiError` INVALID_CONFIG, naming the key, the value and what is allowed."""
    try:
        defaults.with_overrides(overrides)
    except ConfigError as error:
        raise ApiError(ErrorCode.INVALID_CONFIG, str(error)) from error


def check_broker_overrides(
    changed: Collection[str],
    overrides: Mapping[str, str],
    static: BrokerConfig,
    current: BrokerConfig,
) -> None:
    """Refuse what cannot be altered while brokers run, and what would not be a configuration.

    `changed` are the keys being altered: only those are held against the caller. `static` is what
    the broker was started with, `current` what holds now. Errors:
    `ApiError` INVALID_REQUEST. Unknown keys are stored, as Kafka does for its plugins.
    """
    for key in sorted(changed):
        if key in THROTTLE_KEYS:
            raise ApiError(ErrorCode.INVALID_REQUEST, f"{key}: replication is never throttled here")
        if is_family_without_effect(key):
            raise ApiError(ErrorCode.INVALID_REQUEST, f"{key} has no effect here")
        if key in BROKER_SETTINGS and not is_dynamic(key):
            raise ApiError(
                ErrorCode.INVALID_REQUEST, f"{key} cannot be changed while the broker runs"
            )
    try:
        for key in sorted(changed):
            if key in overrides and key in BROKER_SETTINGS:
                BROKER_SETTINGS[key].parse(overrides[key])
        proposed = static.with_dynamic(overrides)
    except ConfigError as error:
        raise ApiError(ErrorCode.INVALID_REQUEST, str(error)) from error
    if "log.cleaner.threads" in changed:
        _check_threads("log.cleaner.threads", proposed.log_cleaner_threads, current)


def _check_threads(key: str, wanted: int, current: BrokerConfig) -> None:
    """Kafka's rule for all its pools of threads."""
    now = current.log_cleaner_threads
    least, most = max(1, now // 2), 2 * now
    if not least <= wanted <= most:
        raise ApiError(
            ErrorCode.INVALID_REQUEST,
            f"{key}={wanted} is not allowed: from half to double the {now} of now,"
            f" {least} to {most}",
        )
