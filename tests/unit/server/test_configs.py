"""Settings in force follow ZooKeeper, and are changed through it; asked of the part and of the
four handlers above it."""

import logging
from types import SimpleNamespace

import pytest
import server_fakes as fakes
import trio
from fake_zookeeper import FakeZooKeeper

from zkafka.clock import Clock
from zkafka.config import BrokerConfig
from zkafka.errors import ErrorCode
from zkafka.protocol.messages import (
    alter_configs as alter_messages,
)
from zkafka.protocol.messages import (
    describe_configs as describe_messages,
)
from zkafka.protocol.messages import (
    incremental_alter_configs as incremental_messages,
)
from zkafka.protocol.messages.init_producer_id import InitProducerIdRequest
from zkafka.server.config_entries import AlterOperation
from zkafka.server.configs import (
    BROKER_RESOURCE,
    TOPIC_RESOURCE,
    Configs,
    ConfigsChanged,
)
from zkafka.server.handlers import (
    alter_configs,
    describe_configs,
    incremental_alter_configs,
    init_producer_id,
)
from zkafka.zk.store import Store

STATIC = {"zookeeper.connect": "zk:1", "log.retention.ms": "100", "ssl.key.password": "hunter2"}


class World:
    """One broker's `Configs` (broker 1), and another broker's way to the same ZooKeeper."""

    def __init__(self):
        self.server = FakeZooKeeper()
        self.session = self.server.session()
        self.store = Store(self.session, retry_ms=1000)
        self.elsewhere = Store(self.server.session())
        self.config = BrokerConfig.parse(STATIC)
        self.changes: list[ConfigsChanged] = []
        self.configs = Configs(
            broker_id=1,
            config=self.config,
            store=self.store,
            session=self.session,
            clock=Clock(wall=lambda: self.server.now_ms / 1000),
        )
        image = SimpleNamespace(topics={"t": None, "u": None})
        self.parts = SimpleNamespace(
            configs=self.configs, metadata=SimpleNamespace(image=image), config=self.config
        )
        self.context = fakes.context(self.parts, 1)

    async def start(self, nursery):
        await self.configs.load()
        await nursery.start(self.configs.run, self.changes.append)

    async def heard(self):
        """What changed since the last call, when all notifications are digested."""
        await trio.testing.wait_all_tasks_blocked()
        changes, self.changes[:] = list(self.changes), []
        return changes


@pytest.fixture
async def world():
    world = World()
    await world.elsewhere.create_base_paths()
    return world


@pytest.fixture
async def running(world, nursery):
    await world.start(nursery)
    return world


# ------------------------------------------------------------------------------ following


async def test_a_topic_without_overrides_has_the_brokers_defaults(running):
    assert running.configs.config_for("t") == running.config.log_defaults
    assert running.configs.config_for("t").retention_ms == 100


async def test_overrides_are_there_after_loading(world, nursery):
    await world.elsewhere.write_entity_config("topics", "t", {"retention.ms": "5"})
    await world.elsewhere.write_entity_config("brokers", "<default>", {"min.insync.replicas": "2"})
    await world.start(nursery)
    config = world.configs.config_for("t")
    assert (config.retention_ms, config.min_insync_replicas) == (5, 2)
    assert world.configs.config_for("t") is config
    assert await world.heard() == []


async def test_an_alteration_elsewhere_is_heard_of(running):
    await running.elsewhere.write_entity_config("topics", "t", {"retention.ms": "5"})
    assert await running.heard() == [ConfigsChanged(topics=frozenset({"t"}))]
    assert running.configs.config_for("t").retention_ms == 5
    await running.elsewhere.write_entity_config("topics", "t", {})
    assert await running.heard() == [ConfigsChanged(topics=frozenset({"t"}))]
    assert running.configs.config_for("t").retention_ms == 100


async def test_the_defaults_of_brokers_change_for_all_topics(running):
    await running.elsewhere.write_entity_config("topics", "t", {"segment.ms": "7"})
    await running.heard()
    await running.elsewhere.write_entity_config("brokers", "<default>", {"log.retention.ms": "6"})
    assert await running.heard() == [ConfigsChanged(topics=None)]
    for topic in ("t", "u"):
        assert running.configs.config_for(topic).retention_ms == 6
    assert running.configs.config_for("t").segment_ms == 7
    await running.elsewhere.write_entity_config("brokers", "1", {"log.retention.ms": "8"})
    assert await running.heard() == [ConfigsChanged(topics=None)]
    assert running.configs.log_defaults.retention_ms == 8


@pytest.mark.parametrize(("kind", "name"), [("brokers", "2"), ("clients", "c"), ("users", "u")])
async def test_what_is_none_of_our_business_changes_nothing(running, kind, name):
    await running.elsewhere.write_entity_config(kind, name, {"log.retention.ms": "6"})
    assert await running.heard() == []
    assert running.configs.config_for("t").retention_ms == 100


async def test_unclean_election_that_becomes_possible_is_told(running):
    unclean = "unclean.leader.election.enable"
    await running.elsewhere.write_entity_config("topics", "t", {unclean: "true"})
    [change] = await running.heard()
    assert change.unclean_enabled == {"t"}
    await running.elsewhere.write_entity_config("topics", "t", {unclean: "true", "segment.ms": "7"})
    [change] = await running.heard()
    assert change.unclean_enabled == frozenset(), "it was possible before"
    await running.elsewhere.write_entity_config("brokers", "<default>", {unclean: "true"})
    [change] = await running.heard()
    assert change.unclean_enabled is None


async def test_changes_made_while_the_session_was_away_are_read_on_its_return(running):
    running.session.suspend()
    await running.elsewhere.write_entity_config("topics", "t", {"retention.ms": "5"})
    running.server.now_ms += 3_600_000
    await running.elsewhere.delete_old_config_changes(running.server.now_ms)
    assert await running.heard() == []
    running.session.reconnect()
    assert await running.heard() == [ConfigsChanged(topics=frozenset({"t"}))]
    running.session.expire()
    await running.elsewhere.write_entity_config("topics", "u", {"retention.ms": "6"})
    running.session.renew()
    assert await running.heard() == [ConfigsChanged(topics=frozenset({"u"}))]
    await running.elsewhere.write_entity_config("topics", "u", {"retention.ms": "7"})
    assert await running.heard() == [ConfigsChanged(topics=frozenset({"u"}))], "watched again"


async def test_old_notifications_are_cleared_away(running):
    await running.elsewhere.write_entity_config("topics", "t", {})
    running.server.now_ms += 16 * 60_000
    await running.elsewhere.write_entity_config("topics", "u", {})
    await running.heard()
    assert [change.name for change in await running.elsewhere.config_changes()] == ["u"]


async def test_a_bad_override_leaves_the_others_in_force(running, caplog):
    await running.elsewhere.write_entity_config(
        "topics", "t", {"retention.ms": "5", "segment.bytes": "one", "bogus": "1"}
    )
    await running.heard()
    assert running.configs.config_for("t") == running.config.log_defaults.with_overrides(
        {"retention.ms": "5"}
    )
    assert "topic setting left out topic=t key=segment.bytes" in caplog.text
    assert "topic setting left out topic=t key=bogus" in caplog.text


async def test_bad_dynamic_settings_of_brokers_are_not_taken_over(running, caplog):
    await running.elsewhere.write_entity_config("brokers", "1", {"log.retention.ms": "soon"})
    await running.heard()
    assert running.configs.log_defaults == running.config.log_defaults
    assert "log.retention.ms='soon'" in caplog.text


async def test_a_new_topics_settings_are_read_before_its_first_log(running):
    await running.elsewhere.create_topic("new", None, {}, {"cleanup.policy": "compact"})
    assert await running.heard() == [], "a creation is not notified"
    await running.configs.learn({"new", "t"})
    assert running.configs.config_for("new").cleanup_policy == ("compact",)


async def test_a_topic_made_anew_does_not_have_its_namesakes_settings(running):
    await running.elsewhere.write_entity_config("topics", "t", {"cleanup.policy": "compact"})
    await running.heard()
    await running.elsewhere._session.delete("/config/topics/t")
    await running.configs.learn({"t"})
    assert running.configs.config_for("t") == running.config.log_defaults


@pytest.mark.parametrize("trouble", ["suspend", "expire"])
async def test_learning_does_not_wait_for_zookeeper(running, caplog, trouble):
    getattr(running.session, trouble)()
    await running.configs.learn({"t"})
    assert "topic configuration not read topic=t" in caplog.text


async def test_a_node_that_makes_no_sense_is_left_alone_and_leaves_the_others_alone(
    running, caplog
):
    """Every broker reads it: were it to stop one, it would stop them all at once."""
    await running.elsewhere.write_entity_config("topics", "t", {"retention.ms": "5"})
    await running.heard()
    await running.elsewhere._session.set("/config/topics/t", b"{retention")
    await running.elsewhere._create_sequential(
        "/config/changes/config_change_", b'{"version":2,"entity_path":"topics/t"}'
    )
    await running.elsewhere.write_entity_config("topics", "u", {"retention.ms": "6"})
    await running.heard()
    assert "configuration left as it was: /config/topics/t" in caplog.text
    assert running.configs.config_for("t").retention_ms == 5
    assert running.configs.config_for("u").retention_ms == 6
    await running.configs.learn({"t"})
    running.session.suspend()
    running.session.reconnect()
    await running.heard()
    assert running.configs.config_for("t").retention_ms == 5
    await running.elsewhere.write_entity_config("topics", "t", {"retention.ms": "7"})
    await running.heard()
    assert running.configs.config_for("t").retention_ms == 7


# ------------------------------------------------------------------------------ the handlers


def resource(kind, name, *changes):
    """Of IncrementalAlterConfigs; a change is (key, value) or (key, value, operation)."""
    return incremental_messages.AlterConfigsResource(
        resource_type=kind,
        resource_name=name,
        configs=[
            incremental_messages.AlterableConfig(
                name=key, value=value, config_operation=operation[0] if operation else 0
            )
            for key, value, *operation in changes
        ],
    )


async def incremental(world, *resources, validate_only=False):
    request = incremental_messages.IncrementalAlterConfigsRequest(
        resources=list(resources), validate_only=validate_only
    )
    response = await incremental_alter_configs.handle(request, world.context)
    return [(r.resource_name, r.error_code) for r in response.responses]


async def replaced(world, kind, name, configs, validate_only=False):
    request = alter_messages.AlterConfigsRequest(
        resources=[
            alter_messages.AlterConfigsResource(
                resource_type=kind,
                resource_name=name,
                configs=[
                    alter_messages.AlterableConfig(name=key, value=value)
                    for key, value in configs.items()
                ],
            )
        ],
        validate_only=validate_only,
    )
    [response] = (await alter_configs.handle(request, world.context)).responses
    return response.error_code


async def described(world, kind, name, keys=None, **options):
    request = describe_messages.DescribeConfigsRequest(
        resources=[
            describe_messages.DescribeConfigsResource(
                resource_type=kind, resource_name=name, configuration_keys=keys
            )
        ],
        **options,
    )
    [result] = (await describe_configs.handle(request, world.context)).results
    assert (result.resource_type, result.resource_name) == (kind, name)
    return result


async def test_settings_are_set_deleted_appended_and_subtracted(running):
    assert await incremental(
        running,
        resource(
            TOPIC_RESOURCE,
            "t",
            ("retention.ms", "5"),
            ("cleanup.policy", "compact", AlterOperation.APPEND),
        ),
    ) == [("t", ErrorCode.NONE)]
    assert await running.store.entity_config("topics", "t") == {
        "retention.ms": "5",
        "cleanup.policy": "delete,compact",
    }
    await incremental(
        running,
        resource(
            TOPIC_RESOURCE,
            "t",
            ("retention.ms", None, AlterOperation.DELETE),
            ("cleanup.policy", "delete", AlterOperation.SUBTRACT),
        ),
    )
    await running.heard()
    assert running.configs.config_for("t") == running.config.log_defaults.with_overrides(
        {"cleanup.policy": "compact"}
    )


async def test_the_old_form_replaces_everything(running):
    assert await replaced(running, TOPIC_RESOURCE, "t", {"retention.ms": "5"}) == ErrorCode.NONE
    assert await replaced(running, TOPIC_RESOURCE, "t", {"segment.ms": "7"}) == ErrorCode.NONE
    assert await running.store.entity_config("topics", "t") == {"segment.ms": "7"}


async def test_validating_writes_nothing(running):
    change = resource(TOPIC_RESOURCE, "t", ("retention.ms", "5"))
    assert await incremental(running, change, validate_only=True) == [("t", ErrorCode.NONE)]
    bad = resource(TOPIC_RESOURCE, "t", ("retention.ms", "x"))
    assert await incremental(running, bad, validate_only=True) == [("t", ErrorCode.INVALID_CONFIG)]
    nothing = await replaced(running, TOPIC_RESOURCE, "t", {"retention.ms": "5"}, True)
    assert nothing == ErrorCode.NONE
    assert await running.store.entity_config("topics", "t") == {}
    assert await running.store.config_changes() == []


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        (resource(TOPIC_RESOURCE, "t", ("retention.ms", "x")), ErrorCode.INVALID_CONFIG),
        (resource(TOPIC_RESOURCE, "t", ("bogus", "1")), ErrorCode.INVALID_CONFIG),
        (resource(TOPIC_RESOURCE, "t", ("segment.ms", "1", 2)), ErrorCode.INVALID_CONFIG),
        (resource(TOPIC_RESOURCE, "missing"), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (resource(TOPIC_RESOURCE, "a/b"), ErrorCode.INVALID_TOPIC_EXCEPTION),
        (resource(TOPIC_RESOURCE, ".."), ErrorCode.INVALID_TOPIC_EXCEPTION),
        (resource(TOPIC_RESOURCE, ""), ErrorCode.INVALID_REQUEST),
        (resource(TOPIC_RESOURCE, "t", ("segment.ms", None)), ErrorCode.INVALID_REQUEST),
        (resource(BROKER_RESOURCE, "2", ("log.retention.ms", "1")), ErrorCode.INVALID_REQUEST),
        (resource(BROKER_RESOURCE, "one"), ErrorCode.INVALID_REQUEST),
        (resource(BROKER_RESOURCE, "1", ("num.io.threads", "9")), ErrorCode.INVALID_REQUEST),
        (resource(BROKER_RESOURCE, "", ("log.retention.ms", "0")), ErrorCode.INVALID_REQUEST),
        (resource(8, "1", ("root", "DEBUG")), ErrorCode.INVALID_REQUEST),
    ],
)
async def test_each_refusal_has_kafkas_code(running, changed, code):
    before = dict(running.server.nodes)
    assert await incremental(running, changed) == [(changed.resource_name, code)]
    assert running.server.nodes.keys() == before.keys()


async def test_a_resource_named_twice_is_refused_and_the_others_are_altered(running):
    one, two = (resource(TOPIC_RESOURCE, "t", ("segment.ms", text)) for text in "12")
    other = resource(TOPIC_RESOURCE, "u", ("segment.ms", "3"))
    assert await incremental(running, one, other, two) == [
        ("t", ErrorCode.INVALID_REQUEST),
        ("u", ErrorCode.NONE),
        ("t", ErrorCode.INVALID_REQUEST),
    ]
    assert await running.store.all_entity_configs("topics") == {"u": {"segment.ms": "3"}}


async def test_a_refusal_explains_itself(running):
    request = incremental_messages.IncrementalAlterConfigsRequest(
        resources=[resource(TOPIC_RESOURCE, "t", ("min.insync.replicas", "0"))]
    )
    [response] = (await incremental_alter_configs.handle(request, running.context)).responses
    assert "min.insync.replicas='0' is not allowed" in response.error_message


async def test_two_alterations_at_once_both_count(running):
    async with trio.open_nursery() as nursery:
        for key in ("segment.ms", "retention.ms", "flush.ms"):
            change = resource(TOPIC_RESOURCE, "t", (key, "9"))
            nursery.start_soon(incremental, running, change)
    assert len(await running.store.entity_config("topics", "t")) == 3


async def test_dynamic_settings_of_this_broker_and_of_all(running):
    change = resource(BROKER_RESOURCE, "", ("log.retention.ms", "6"), ("our.plugin", "x"))
    assert await incremental(running, change) == [("", ErrorCode.NONE)]
    await incremental(running, resource(BROKER_RESOURCE, "1", ("log.retention.ms", "7")))
    await running.heard()
    assert running.configs.config_for("t").retention_ms == 7
    await replaced(running, BROKER_RESOURCE, "1", {})
    await running.heard()
    assert running.configs.config_for("t").retention_ms == 6
    defaults = await described(running, BROKER_RESOURCE, "")
    assert {c.name: c.value for c in defaults.configs} == {
        "log.retention.ms": "6",
        "our.plugin": None,
    }


async def test_a_brokers_own_settings_change_and_nothing_is_said_of_topics(running):
    before = running.configs.broker_config
    change = resource(BROKER_RESOURCE, "", ("log.cleaner.backoff.ms", "6"))
    nothing = ConfigsChanged(topics=frozenset(), unclean_enabled=frozenset())
    assert await incremental(running, change) == [("", ErrorCode.NONE)]
    assert await running.heard() == [nothing]
    change = resource(BROKER_RESOURCE, "1", ("log.cleaner.threads", "2"))
    assert await incremental(running, change) == [("1", ErrorCode.NONE)]
    assert await running.heard() == [nothing]
    now = running.configs.broker_config
    assert (now.log_cleaner_backoff_ms, now.log_cleaner_threads) == (6, 2)
    assert now.log_defaults == before.log_defaults
    await replaced(running, BROKER_RESOURCE, "1", {})
    await replaced(running, BROKER_RESOURCE, "", {})
    await running.heard()
    assert running.configs.broker_config == before


async def test_what_is_no_configuration_is_left_out(running, caplog):
    """Written by somebody who did not ask us."""
    await running.elsewhere.write_entity_config(
        "brokers", "1", {"log.cleaner.backoff.ms": "6", "log.cleaner.threads": "many"}
    )
    assert len(await running.heard()) == 1
    now = running.configs.broker_config
    assert (now.log_cleaner_backoff_ms, now.log_cleaner_threads) == (6, 1)
    assert "log.cleaner.threads='many'" in caplog.text
    # A key that may not change has no effect, and keeps no other from having one.
    await running.elsewhere.write_entity_config(
        "brokers", "1", {"log.cleaner.backoff.ms": "7", "listeners": "nonsense"}
    )
    assert len(await running.heard()) == 1
    assert running.configs.broker_config.log_cleaner_backoff_ms == 7


async def test_a_topic_is_described_as_it_is_in_zookeeper(running):
    await running.elsewhere.write_entity_config("topics", "t", {"retention.ms": "5"})
    # Before this broker has heard of it.
    result = await described(running, TOPIC_RESOURCE, "t", ["retention.ms"], include_synonyms=True)
    assert (result.error_code, result.error_message) == (ErrorCode.NONE, None)
    [row] = result.configs
    assert (row.name, row.value, row.config_source, row.config_type) == ("retention.ms", "5", 1, 5)
    assert (row.read_only, row.is_sensitive) == (False, False)
    assert [(s.name, s.value, s.source) for s in row.synonyms] == [
        ("retention.ms", "5", 1),
        ("log.retention.ms", "100", 4),
        ("log.retention.hours", "168", 5),
    ]
    assert row.documentation is None


async def test_synonyms_and_documentation_only_where_asked_for(running):
    result = await described(running, TOPIC_RESOURCE, "t", include_documentation=True)
    assert all(row.documentation and not row.synonyms for row in result.configs)
    names = {row.name for row in result.configs}
    assert {"retention.ms", "cleanup.policy", "min.insync.replicas", "max.message.bytes"} <= names


async def test_this_broker_is_described(running):
    result = await described(running, BROKER_RESOURCE, "1")
    rows = {row.name: row for row in result.configs}
    assert rows["broker.id"].value == "1"
    assert (rows["log.retention.ms"].value, rows["log.retention.ms"].config_source) == ("100", 4)
    assert rows["zookeeper.connect"].read_only
    assert not rows["log.retention.ms"].read_only
    assert (rows["ssl.key.password"].value, rows["ssl.key.password"].is_sensitive) == (None, True)
    assert {"default.replication.factor", "auto.create.topics.enable"} <= set(rows)


@pytest.mark.parametrize(
    ("kind", "name", "code"),
    [
        (TOPIC_RESOURCE, "missing", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (TOPIC_RESOURCE, "a b", ErrorCode.INVALID_TOPIC_EXCEPTION),
        (TOPIC_RESOURCE, "", ErrorCode.INVALID_TOPIC_EXCEPTION),
        (BROKER_RESOURCE, "2", ErrorCode.INVALID_REQUEST),
        (BROKER_RESOURCE, "x", ErrorCode.INVALID_REQUEST),
        (8, "1", ErrorCode.INVALID_REQUEST),
        (0, "", ErrorCode.INVALID_REQUEST),
    ],
)
async def test_what_cannot_be_described(running, kind, name, code):
    result = await described(running, kind, name)
    assert result.error_code == code
    assert result.error_message
    assert list(result.configs) == []


async def test_without_zookeeper_each_resource_times_out(running, autojump_clock):
    running.session.suspend()
    result = await described(running, TOPIC_RESOURCE, "t")
    assert result.error_code == ErrorCode.REQUEST_TIMED_OUT
    change = resource(TOPIC_RESOURCE, "t", ("segment.ms", "7"))
    assert await incremental(running, change) == [("t", ErrorCode.REQUEST_TIMED_OUT)]


async def test_values_are_not_logged(running, caplog):
    caplog.set_level(logging.INFO)
    await incremental(running, resource(BROKER_RESOURCE, "1", ("our.secret", "hunter2")))
    await running.heard()
    assert "hunter2" not in caplog.text


# ------------------------------------------------------------------------------ InitProducerId


class FakeIds:
    def __init__(self):
        self.given = iter(range(1000, 2000))
        self.stuck = False

    async def allocate(self):
        await trio.lowlevel.checkpoint()
        if self.stuck:
            await trio.sleep_forever()
        return next(self.given)


@pytest.fixture
def init(world):
    world.parts.producer_ids = FakeIds()

    async def ask(**fields):
        response = await init_producer_id.handle(
            InitProducerIdRequest(**{"transactional_id": None, **fields}), world.context
        )
        return response.error_code, response.producer_id, response.producer_epoch

    ask.ids = world.parts.producer_ids
    return ask


async def test_an_idempotent_producer_gets_a_fresh_id(init):
    assert await init() == (ErrorCode.NONE, 1000, 0)
    assert await init(producer_id=1000, producer_epoch=0) == (ErrorCode.NONE, 1001, 0)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"producer_id": 5}, ErrorCode.INVALID_REQUEST),
        ({"producer_epoch": 5}, ErrorCode.INVALID_REQUEST),
        ({"transactional_id": ""}, ErrorCode.INVALID_REQUEST),
        (
            {"transactional_id": "t", "transaction_timeout_ms": 0},
            ErrorCode.INVALID_TRANSACTION_TIMEOUT,
        ),
        (
            {"transactional_id": "t", "transaction_timeout_ms": 900_001},
            ErrorCode.INVALID_TRANSACTION_TIMEOUT,
        ),
        (
            {"transactional_id": "t", "transaction_timeout_ms": 900_000},
            ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        ),
    ],
)
async def test_who_gets_no_id(init, fields, code):
    assert await init(**fields) == (code, -1, -1)


async def test_a_producer_is_told_to_ask_again_when_no_id_comes(init, autojump_clock):
    init.ids.stuck = True
    assert await init() == (ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, -1, -1)


async def test_the_rate_of_moves_may_change_and_no_topic_does(running):
    key = "replica.alter.log.dirs.io.max.bytes.per.second"

    def rate():
        return running.configs.broker_config.replica_alter_log_dirs_io_max_bytes_per_second

    assert rate() == 2**63 - 1
    for text in ("5000", "0"):
        await incremental(running, resource(BROKER_RESOURCE, "1", (key, text)))
        assert await running.heard() == [ConfigsChanged(topics=frozenset())]
        assert rate() == int(text)
    refused = await incremental(running, resource(BROKER_RESOURCE, "1", (key, "-1")))
    assert refused == [("1", ErrorCode.INVALID_REQUEST)]
    assert rate() == 0
