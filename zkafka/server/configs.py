"""Settings while the broker runs: topics' overrides and the brokers' dynamic ones.

They live in ZooKeeper, under /config/topics, /config/brokers/<id> and /config/brokers/<default>.
Whoever changes one writes it there, and a notification under /config/changes; every broker reads
the entity again and tells its parts (`ConfigsChanged`). A notification is only a hint: what counts
is the entity as it is when it is read.

Law: what `config_for` answers is the configuration as last read. A bad value in ZooKeeper (written
by somebody who did not ask us) is reported and left out, and the other overrides hold.

After a suspension everything is read again, since notifications live for fifteen minutes only and a
session may be away for longer.

Source: `ZkConfigManager` and the dynamic part of `ConfigAdminManager` of Apache Kafka 3.9; KIP-226.
"""

import logging
import re
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs
import trio

from zkafka.clock import Clock
from zkafka.config import BROKER_SETTINGS, TOPIC_SETTINGS, BrokerConfig, LogConfig
from zkafka.errors import (
    ApiError,
    ConfigError,
    CoordinationError,
    ErrorCode,
    SessionLost,
    SessionSuspended,
)
from zkafka.model import BrokerId
from zkafka.server.config_entries import (
    Alteration,
    BrokerValues,
    Entry,
    altered,
    check_broker_overrides,
    check_topic_overrides,
    describe_broker,
    describe_broker_defaults,
    describe_topic,
)
from zkafka.zk.operations import HintKind, SessionState
from zkafka.zk.znodes import CONFIG_CHANGES, DEFAULT_ENTITY

if TYPE_CHECKING:
    from zkafka.zk.session import Session
    from zkafka.zk.store import Store

log = logging.getLogger(__name__)

_TOPIC_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")

TOPIC_RESOURCE: Final = 2
BROKER_RESOURCE: Final = 4


@attrs.frozen(kw_only=True)
class ConfigsChanged:
    """Tells the parts that settings changed.

    `topics` are those to ask `config_for` again; None for all, since a default changed.
    `broker_config` may have changed in any case.
    `unclean_enabled` are those of them for which unclean leader election was turned on; None for
    all, where its default was.
    """

    topics: frozenset[str] | None
    unclean_enabled: frozenset[str] | None = frozenset()


Listener: TypeAlias = Callable[[ConfigsChanged], None]


class Configs:
    """The settings in force, and the way to change them. `run` is the task that follows them."""

    def __init__(
        self,
        *,
        broker_id: BrokerId,
        config: BrokerConfig,
        store: "Store",
        session: "Session",
        clock: Clock,
    ) -> None:
        self._broker_id = broker_id
        self._store = store
        self._clock = clock
        self._session = session
        self._hints = session.subscribe()
        # The id may have been generated; whoever asks wants to see it.
        self._broker = BrokerValues(static={**config.properties, "broker.id": str(broker_id)})
        self._static = self._current = config
        self._overrides: dict[str, dict[str, str]] = {}
        self._effective: dict[str, LogConfig] = {}
        self._last_change = -1
        self._listener: Listener | None = None
        # Altering is reading, changing and writing back. Two requests that alter the same entity
        # through this broker take turns; between brokers the last writer wins, as in Kafka.
        self._altering = trio.Lock()

    @property
    def log_defaults(self) -> LogConfig:
        """What a topic without overrides gets now, dynamic broker settings included."""
        return self._current.log_defaults

    @property
    def broker_config(self) -> BrokerConfig:
        """This broker's own settings as they are now, dynamic ones included."""
        return self._current

    def config_for(self, topic: str) -> LogConfig:
        """What the topic's logs obey. Never waits; the same object until something changes."""
        config = self._effective.get(topic)
        if config is None:
            overrides = self._overrides.get(topic)
            if not overrides:
                return self.log_defaults
            config = self._effective[topic] = self._with_overrides(topic, overrides)
        return config

    def _with_overrides(self, topic: str, overrides: Mapping[str, str]) -> LogConfig:
        try:
            return self.log_defaults.with_overrides(overrides)
        except ConfigError as error:
            log.warning("bad topic configuration topic=%s: %s", topic, error)
        config = self.log_defaults
        for key, text in sorted(overrides.items()):
            try:
                config = config.with_overrides({key: text})
            except ConfigError:
                log.warning("topic setting left out topic=%s key=%s", topic, key)
        return config

    async def learn(self, topics: Collection[str]) -> None:
        """Read the settings of topics of which a first log is about to be made here: a topic's
        creation is not notified, only what is altered later.

        Where ZooKeeper cannot be asked, what is known stays; the session's return has everything
        read again. So it does where a node makes no sense: the roles that wait must be taken.
        """
        for topic in sorted(topics):
            if self._session.state is not SessionState.CONNECTED:
                log.warning("topic configuration not read topic=%s", topic)
                continue
            try:
                overrides = await self._store.entity_config("topics", topic)
            except CoordinationError as error:
                log.warning("topic configuration not read topic=%s: %s", topic, error)
                continue
            if overrides != self._overrides.get(topic, {}):
                self._replace_overrides(topic, overrides)

    # ---------------------------------------------------------------------------- following

    async def load(self) -> None:
        """Read everything, so that `config_for` can be relied on. Errors: `CoordinationError`."""
        await self._load()

    async def run(
        self,
        on_change: Listener,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Follow the notifications, calling `on_change` at every change; after `load`.

        `on_change` must not wait or raise. A session that comes and goes is waited for.
        """
        self._listener = on_change
        async with self._hints:
            task_status.started()
            async for hint in self._hints:
                try:
                    if hint.kind is HintKind.CONNECTED:
                        await self._load()
                    elif hint.path == CONFIG_CHANGES:
                        await self._follow()
                except (SessionSuspended, SessionLost) as error:
                    # The hint CONNECTED that ends it has everything read again.
                    log.info("configuration changes will be read later: %s", error)
                except CoordinationError as error:
                    # A node that makes no sense (somebody wrote it by hand) is read by every
                    # broker: none may stop for it.
                    log.error("configuration left as it was: %s", error)

    async def _load(self) -> None:
        """Everything anew. Notifications are listed before the entities are read, so that a change
        in between is at worst read twice."""
        changes = await self._store.config_changes(watch=True)
        topics = await self._store.all_entity_configs("topics")
        broker = await self._read_broker()
        self._last_change = max((change.number for change in changes), default=-1)
        before = {t: self.config_for(t) for t in {*topics, *self._overrides}}
        self._overrides = topics
        self._effective = {}
        if broker != self._broker:
            self._adopt_broker(broker)
        changed = frozenset(t for t in before if self.config_for(t) != before[t])
        if changed:
            self._tell(changed, before)

    async def _follow(self) -> None:
        """Read again what the new notifications name, and clear the old ones away."""
        changes = await self._store.config_changes(watch=True, after=self._last_change)
        for kind, name in dict.fromkeys((change.kind, change.name) for change in changes):
            try:
                await self._reread(kind, name)
            except (SessionSuspended, SessionLost):
                raise
            except CoordinationError as error:
                log.error("configuration left as it was: %s", error)
        self._last_change = max([self._last_change, *(change.number for change in changes)])
        if changes:
            await self._store.delete_old_config_changes(self._clock.wall_ms())

    async def _reread(self, kind: str, name: str) -> None:
        if kind == "topics":
            overrides = await self._store.entity_config("topics", name)
            self._replace_overrides(name, overrides)
        elif kind == "brokers" and name in (str(self._broker_id), DEFAULT_ENTITY):
            broker = await self._read_broker()
            if broker != self._broker:
                self._adopt_broker(broker)

    def _replace_overrides(self, topic: str, overrides: dict[str, str]) -> None:
        before = {topic: self.config_for(topic)}
        self._overrides.pop(topic, None)
        if overrides:
            self._overrides[topic] = overrides
        self._effective.pop(topic, None)
        log.info("topic configuration read topic=%s overrides=%s", topic, overrides)
        self._tell(frozenset({topic}), before)

    async def _read_broker(self) -> BrokerValues:
        return attrs.evolve(
            self._broker,
            dynamic_default=await self._store.entity_config("brokers", DEFAULT_ENTITY),
            dynamic_broker=await self._store.entity_config("brokers", str(self._broker_id)),
        )

    def _adopt_broker(self, broker: BrokerValues) -> None:
        """Take over new dynamic broker settings; those that are no configuration are left out."""
        before = self._current
        self._current = self._with_dynamic(broker.dynamic)
        self._broker = broker
        self._effective = {}
        if self._current == before:
            return
        defaults, former = self._current.log_defaults, before.log_defaults
        log.info("broker settings changed broker=%d", self._broker_id)
        enabled = defaults.unclean_leader_election_enable
        turned_on = enabled and not former.unclean_leader_election_enable
        self._call(
            ConfigsChanged(
                topics=None if defaults != former else frozenset(),
                unclean_enabled=None if turned_on else frozenset(),
            )
        )

    def _with_dynamic(self, values: Mapping[str, str]) -> BrokerConfig:
        try:
            return self._static.with_dynamic(values)
        except ConfigError as error:
            log.warning("bad dynamic broker settings: %s", error)
        config = self._static
        for key, text in sorted(values.items()):
            try:
                config = config.with_dynamic({key: text})
            except ConfigError:
                log.warning("dynamic broker setting left out key=%s", key)
        return config

    def _tell(self, topics: frozenset[str], before: Mapping[str, LogConfig]) -> None:
        turned_on = frozenset(
            topic
            for topic in topics
            if self.config_for(topic).unclean_leader_election_enable
            and not before[topic].unclean_leader_election_enable
        )
        self._call(ConfigsChanged(topics=topics, unclean_enabled=turned_on))

    def _call(self, change: ConfigsChanged) -> None:
        if self._listener is not None:
            self._listener(change)

    # --------------------------------------------------------------------- describing, altering

    async def describe(
        self,
        resource_type: int,
        name: str,
        keys: Sequence[str] | None,
        *,
        topics: Container[str],
    ) -> list[Entry]:
        """The settings of a topic (one of `topics`), of this broker, or (name empty) of the
        cluster's defaults.

        Overrides are read from ZooKeeper, not from what this broker has heard: a client that
        altered them through another broker sees what it did. Errors: `ApiError`;
        `CoordinationError`.
        """
        if resource_type == TOPIC_RESOURCE:
            _refuse_unknown_topic(name, topics)
            overrides = await self._store.entity_config("topics", name)
            return describe_topic(
                overrides, self._broker, self._with_overrides(name, overrides), keys
            )
        if resource_type == BROKER_RESOURCE:
            self._refuse_other_broker(name)
            broker = await self._read_broker()
            return describe_broker(broker, keys) if name else describe_broker_defaults(broker, keys)
        raise ApiError(
            ErrorCode.INVALID_REQUEST, f"resource type {resource_type} has no configuration here"
        )

    def describe_overrides(self, overrides: Mapping[str, str]) -> list[Entry]:
        """The settings of a topic with these overrides, as `describe` would tell them."""
        return describe_topic(overrides, self._broker, self._with_overrides("", overrides), None)

    async def alter(
        self,
        resource_type: int,
        name: str,
        alterations: Sequence[Alteration],
        *,
        incremental: bool,
        validate_only: bool,
        topics: Container[str],
    ) -> None:
        """Change a resource's overrides and notify every broker; or, with `validate_only`, only say
        whether that would be done. Not `incremental`: what is not named is removed.

        Errors: `ApiError`; `CoordinationError`, after which it may have been done.
        """
        if resource_type == TOPIC_RESOURCE:
            if not name:
                raise ApiError(ErrorCode.INVALID_REQUEST, "a topic without a name")
            _refuse_unknown_topic(name, topics)
            kind, entity = "topics", name
        elif resource_type == BROKER_RESOURCE:
            self._refuse_other_broker(name)
            kind, entity = "brokers", name or DEFAULT_ENTITY
        else:
            raise ApiError(
                ErrorCode.INVALID_REQUEST, f"resource type {resource_type} cannot be altered here"
            )
        async with self._altering:
            current = await self._store.entity_config(kind, entity)
            settings = TOPIC_SETTINGS if kind == "topics" else BROKER_SETTINGS
            overrides = altered(current if incremental else {}, alterations, settings)
            if kind == "topics":
                check_topic_overrides(overrides, self.log_defaults)
            else:
                changed = {alteration.key for alteration in alterations}
                if not incremental:
                    changed |= current.keys() - overrides.keys()
                check_broker_overrides(changed, overrides, self._static, self._current)
            if not validate_only:
                await self._store.write_entity_config(kind, entity, overrides)
                log.info(
                    "configuration altered kind=%s name=%s keys=%s",
                    kind, entity, ",".join(sorted(alteration.key for alteration in alterations)),
                )  # fmt: skip

    def _refuse_other_broker(self, name: str) -> None:
        if name and name != str(self._broker_id):
            raise ApiError(
                ErrorCode.INVALID_REQUEST,
                f"broker {name!r} is not this one, {self._broker_id}: ask that one",
            )


def _refuse_unknown_topic(name: str, topics: Container[str]) -> None:
    if _TOPIC_NAME.fullmatch(name) is None or name in (".", ".."):
        raise ApiError(ErrorCode.INVALID_TOPIC_EXCEPTION, f"{name!r} cannot name a topic")
    if name not in topics:
        raise ApiError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"there is no topic {name}")
