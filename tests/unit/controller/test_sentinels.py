"""Connections to other brokers, held and tried, over a network of memory streams.

The registrations are real znodes of the fake ZooKeeper; the clock is trio's mock clock, so that
nothing here sleeps in real time.
"""

import errno
import logging

import pytest
import trio
import trio.testing
from fake_cluster import Cluster, settle

from zkafka.clock import Clock
from zkafka.controller.sentinels import CONNECT_TIMEOUT_S, Sentinels, SentinelStatistics
from zkafka.net.transport import StreamTransport
from zkafka.zk.store import Store

REFUSED = OSError(errno.ECONNREFUSED, "refused")


class Listeners:
    """The listeners of all brokers, as broker 1 finds them."""

    def __init__(self) -> None:
        self.failures: dict[str, OSError] = {}
        self.silent: set[str] = set()
        self.accepted: dict[str, list] = {}
        self.attempts: list[tuple[str, int]] = []
        self.taken = trio.Event()

    async def open(self, host, port):
        assert port == 9092
        self.attempts.append((host, round(trio.current_time() * 1000)))
        await trio.lowlevel.checkpoint()
        if host in self.silent:
            await trio.sleep_forever()
        if host in self.failures:
            raise self.failures[host]
        ours, theirs = trio.testing.memory_stream_pair()
        self.accepted.setdefault(host, []).append(theirs)
        self.taken.set()
        return StreamTransport(ours)

    async def die(self, host, failure=REFUSED):
        """Its process is killed: connections end, and new ones are refused."""
        self.failures[host] = failure
        await self.hang_up(host)

    async def hang_up(self, host):
        await self.accepted[host][-1].aclose()


class World:
    """Broker 1's sentinels among brokers 1, 2 and 3."""

    def __init__(self, nursery) -> None:
        self.nursery = nursery
        self.cluster = Cluster()
        self.listeners = Listeners()
        self.told: list[dict[int, int]] = []
        self.avoided: list[frozenset[int]] = []

    async def begin(self, *ids: int) -> None:
        await self.cluster.setup()
        self.epochs = {i: await self.cluster.register(i) for i in ids}
        session = self.cluster.sessions[1]
        self.sentinels = Sentinels(
            broker_id=1,
            store=Store(session),
            session=session,
            open_transport=self.listeners.open,
            listener_name="PLAINTEXT",
            timeout_ms=200,
            clock=Clock(),
            suspects_changed=lambda suspects: self.told.append(dict(suspects)),
            avoided_changed=self.avoided.append,
        )
        await self.nursery.start(self.sentinels.run)
        await trio.sleep(5)

    def attempts(self, host, since):
        return [at for h, at in self.listeners.attempts if h == host and at >= since]


@pytest.fixture
async def world(nursery):
    world = World(nursery)
    await world.begin(1, 2, 3)
    return world


async def test_every_other_broker_is_watched_over_one_connection(autojump_clock, world):
    assert {host: len(held) for host, held in world.listeners.accepted.items()} == {
        "host2": 1,
        "host3": 1,
    }
    assert world.sentinels.statistics() == SentinelStatistics(watched=2)


async def test_a_killed_broker_is_suspected_within_the_timeout(autojump_clock, world, caplog):
    caplog.set_level(logging.INFO, "zkafka.state_change")
    began = round(trio.current_time() * 1000)
    await world.listeners.die("host2")
    await trio.sleep(0.199)
    assert world.told == []
    assert world.avoided == [{2}], "clients are better not sent there"
    await trio.sleep(0.01)
    assert world.told == [{2: world.epochs[2]}]
    assert world.attempts("host2", began) == [began, began + 100, began + 200]
    statistics = world.sentinels.statistics()
    assert (statistics.suspected, statistics.suspicions_total) == (1, 1)
    assert [r.message for r in caplog.records] == [
        f"suspected broker=1 suspect=2 broker_epoch={world.epochs[2]} address=host2:9092 "
        "silent_ms=200 refusals=3: its connection has ended, and new ones are refused"
    ]


async def test_attempts_go_on_until_it_answers_and_stays(autojump_clock, world, caplog):
    caplog.set_level(logging.INFO, "zkafka.state_change")
    await world.listeners.die("host2")
    await trio.sleep(30)
    del world.listeners.failures["host2"]
    await trio.sleep(1.5)
    assert world.told == [{2: world.epochs[2]}], "an answer must last"
    await trio.sleep(1)
    assert world.told == [{2: world.epochs[2]}, {}]
    assert world.sentinels.statistics().answered_total == 1
    assert caplog.records[-1].message.startswith("not suspected any more broker=1 suspect=2")
    assert caplog.records[-1].message.endswith("it answers")
    await world.listeners.die("host2")
    await trio.sleep(1)
    assert len(world.told) == 3, "and is watched as before"


async def test_an_answer_that_does_not_last_is_none(autojump_clock, world):
    await world.listeners.die("host2")
    await trio.sleep(1)
    del world.listeners.failures["host2"]
    world.listeners.taken = trio.Event()
    for _ in range(5):
        with trio.fail_after(2):
            await world.listeners.taken.wait()
        world.listeners.taken = trio.Event()
        await world.listeners.hang_up("host2")
    assert world.told == [{2: world.epochs[2]}]


async def test_an_idle_connection_that_is_closed_is_made_again(autojump_clock, world):
    await world.listeners.hang_up("host2")
    await settle()
    assert len(world.listeners.accepted["host2"]) == 2
    assert world.told == []


async def test_what_a_listener_says_unasked_is_not_heard_for_ever(autojump_clock, world):
    """Not one of ours: the connection is of no use, and its end no evidence."""
    await world.listeners.accepted["host2"][0].send_all(b"hello")
    await trio.sleep(5)
    assert len(world.listeners.accepted["host2"]) == 2
    assert world.told == []


@pytest.mark.parametrize("number", [errno.EHOSTUNREACH, errno.EMFILE, errno.EADDRNOTAVAIL])
async def test_other_failures_are_no_evidence(autojump_clock, world, number):
    await world.listeners.die("host2", OSError(number, "not refused"))
    await trio.sleep(60)
    assert world.told == []


async def test_silence_is_no_evidence(autojump_clock, world):
    began = round(trio.current_time() * 1000)
    world.listeners.silent.add("host2")
    await world.listeners.hang_up("host2")
    await trio.sleep(60)
    assert world.told == []
    assert 4 <= len(world.attempts("host2", began)) <= 60 / CONNECT_TIMEOUT_S + 1


async def test_a_registration_that_ends_ends_the_suspicion(autojump_clock, world):
    await world.listeners.die("host2")
    await trio.sleep(1)
    world.cluster.sessions[2].expire()
    await settle()
    assert world.told == [{2: world.epochs[2]}, {}]
    assert world.sentinels.statistics().watched == 1
    attempts = len(world.listeners.attempts)
    await trio.sleep(10)
    assert len(world.listeners.attempts) == attempts


async def test_a_new_registration_is_watched_anew(autojump_clock, world):
    await world.listeners.die("host2")
    await trio.sleep(1)
    del world.listeners.failures["host2"]
    world.cluster.sessions[2].expire()
    world.cluster.sessions[2].renew()
    epoch = await world.cluster.register(2)
    await settle()
    assert world.told == [{2: world.epochs[2]}, {}]
    await trio.sleep(1)
    await world.listeners.die("host2")
    await trio.sleep(1)
    assert world.told[2:] == [{2: epoch}]


async def test_who_registers_later_is_watched_too(autojump_clock, world):
    epoch = await world.cluster.register(4)
    await trio.sleep(1)
    await world.listeners.die("host4")
    await trio.sleep(1)
    assert world.told == [{4: epoch}]


async def test_two_at_once_are_not_suspected_and_it_is_said_why(autojump_clock, world, caplog):
    caplog.set_level(logging.INFO, "zkafka.state_change")
    await world.listeners.die("host2")
    await world.listeners.die("host3")
    await trio.sleep(60)
    assert world.told == []
    assert world.sentinels.statistics().held_back == 2
    assert [r.message.partition(" silent=")[2] for r in caplog.records] == [
        "2,3 registered=3: too many are silent at once, the sessions decide"
    ] * 2


async def test_without_zookeeper_what_was_read_last_stands(autojump_clock, world):
    world.cluster.sessions[1].suspend()
    await world.listeners.die("host2")
    await trio.sleep(1)
    assert world.told == [{2: world.epochs[2]}]
    world.cluster.sessions[3].expire()
    await trio.sleep(60)
    assert world.sentinels.statistics().watched == 2
    world.cluster.sessions[1].reconnect()
    await settle()
    assert world.sentinels.statistics().watched == 1
    assert world.told == [{2: world.epochs[2]}]
