import random
import uuid

import pytest

from zkafka.errors import ErrorCode
from zkafka.model import TopicPartition
from zkafka.protocol.messages.fetch import (
    FetchPartition,
    FetchRequest,
    FetchTopic,
    ForgottenTopic,
)
from zkafka.replication.purgatory import Purgatory
from zkafka.server.fetch_sessions import FetchContext, FetchSessions, next_epoch

ID = uuid.UUID(int=1)
UNKNOWN_ID = uuid.UUID(int=2)
NAMES = {ID: "t"}
YOUNG_MS, OLD_MS = 60_000, 121_000


@pytest.fixture
def purgatory():
    return Purgatory()


@pytest.fixture
def sessions(purgatory):
    made = FetchSessions(watch=purgatory.watch, rng=random.Random(1), slots=3)
    yield made
    made.check()


def request(session_id, epoch, partitions=(), *, topic="t", offset=0, forgotten=()):
    named = {"topic_id": topic} if isinstance(topic, uuid.UUID) else {"topic": topic}
    return FetchRequest(
        session_id=session_id,
        session_epoch=epoch,
        topics=[
            FetchTopic(
                **named,
                partitions=[
                    FetchPartition(partition=p, fetch_offset=offset, partition_max_bytes=100)
                    for p in partitions
                ],
            )
        ]
        if partitions
        else [],
        forgotten_topics_data=[ForgottenTopic(**named, partitions=list(forgotten))]
        if forgotten
        else [],
    )


def begin(sessions, *args, now=0, ids=False, follower=False, **kwargs):
    return sessions.begin(
        request(*args, **kwargs),
        uses_topic_ids=ids,
        topic_names=NAMES.get,
        privileged=follower,
        now_ms=now,
    )


def created(sessions, partitions=(0,), *, now=0, settled=True, **kwargs):
    context = begin(sessions, 0, 0, partitions, now=now, **kwargs)
    session = sessions.create(context, now)
    if session is not None and settled:
        for fetched in context.partitions.values():
            session.settled(fetched, sent=False, settled=True)
    return session


def due(sessions, session, now=0, sweep_ms=10_000):
    return [f.partition for f in session.due(now, sweep_ms)]


# --- What a request means -----------------------------------------------------------------------


def test_a_fetch_without_session_lists_its_partitions_and_wants_none(sessions):
    context = begin(sessions, 0, -1, [0, 1])
    assert isinstance(context, FetchContext)
    assert not context.incremental
    assert not context.wants_session
    assert [f.partition for f in context.partitions.values()] == [0, 1]


def test_a_session_expects_epochs_one_by_one(sessions):
    session = created(sessions)
    assert session.epoch == 1
    assert begin(sessions, session.session_id, 1).session is session
    assert begin(sessions, session.session_id, 2).incremental
    assert begin(sessions, session.session_id, 2) is ErrorCode.INVALID_FETCH_SESSION_EPOCH
    assert begin(sessions, session.session_id, 4) is ErrorCode.INVALID_FETCH_SESSION_EPOCH
    assert begin(sessions, session.session_id, 3).incremental


def test_epochs_wrap_past_the_two_that_mean_something_else():
    assert next_epoch(1) == 2
    assert next_epoch(2**31 - 1) == 1


def test_an_unknown_session_is_refused(sessions):
    assert begin(sessions, 77, 1) is ErrorCode.FETCH_SESSION_ID_NOT_FOUND


def test_names_and_ids_cannot_be_mixed_in_one_session(sessions):
    session = created(sessions)
    assert (
        begin(sessions, session.session_id, 1, ids=True) is ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR
    )


@pytest.mark.parametrize("epoch", [0, -1])
def test_a_full_fetch_that_names_its_session_drops_it(sessions, epoch):
    session = created(sessions)
    context = begin(sessions, session.session_id, epoch, [0])
    assert context.wants_session == (epoch == 0)
    assert begin(sessions, session.session_id, 1) is ErrorCode.FETCH_SESSION_ID_NOT_FOUND


def test_a_session_left_without_partitions_is_dropped(sessions):
    session = created(sessions, [0])
    context = begin(sessions, session.session_id, 1, forgotten=[0])
    assert not context.incremental
    assert context.is_empty
    assert sessions.statistics().sessions == 0


def test_a_full_fetch_of_nothing_gets_no_session(sessions):
    assert not begin(sessions, 0, 0).wants_session


def test_an_earlier_request_of_the_session_is_stale_when_the_next_has_come(sessions):
    session = created(sessions)
    first = begin(sessions, session.session_id, 1)
    assert first.verdict() is ErrorCode.NONE
    second = begin(sessions, session.session_id, 2)
    assert first.verdict() is ErrorCode.INVALID_FETCH_SESSION_EPOCH
    assert second.verdict() is ErrorCode.NONE


# --- What a fetch looks at ----------------------------------------------------------------------


def test_a_settled_session_looks_at_nothing(sessions):
    session = created(sessions, range(1000))
    assert due(sessions, session) == []


def test_what_moved_is_looked_at_until_it_is_settled(sessions, purgatory):
    session = created(sessions, [0, 1, 2])
    purgatory.wake(TopicPartition("t", 1))
    purgatory.wake(TopicPartition("elsewhere", 0))
    (moved,) = session.due(0, 10_000)
    assert moved.partition == 1
    # A request that was cancelled before it answered took nothing along.
    assert due(sessions, session) == [1]
    session.settled(moved, sent=False, settled=True)
    assert due(sessions, session) == []


def test_what_a_request_names_is_looked_at_and_asked_for_anew(sessions):
    session = created(sessions, [0, 1])
    begin(sessions, session.session_id, 1, [1], offset=55)
    (fetched,) = session.due(0, 10_000)
    assert (fetched.partition, fetched.fetch_offset) == (1, 55)


def test_a_partition_added_later_is_watched_as_well(sessions, purgatory):
    session = created(sessions, [0])
    begin(sessions, session.session_id, 1, [9])
    for fetched in session.due(0, 10_000):
        session.settled(fetched, sent=False, settled=True)
    purgatory.wake(TopicPartition("t", 9))
    assert due(sessions, session) == [9]


def test_a_forgotten_partition_is_not_looked_at_again(sessions, purgatory):
    session = created(sessions, [0, 1])
    begin(sessions, session.session_id, 1, forgotten=[0])
    purgatory.wake(TopicPartition("t", 0))
    assert due(sessions, session) == []
    assert len(session) == 1


def test_all_are_looked_at_once_in_a_sweep_a_few_at_a_time(sessions):
    session = created(sessions, range(10), now=0)
    seen = [due(sessions, session, now=now, sweep_ms=1000) for now in range(50, 1001, 50)]
    assert sorted(p for some in seen for p in some) == list(range(10))
    assert max(map(len, seen)) == 1
    assert len(due(sessions, session, now=9000, sweep_ms=1000)) == 10


def test_a_sweep_takes_no_longer_when_fetches_come_at_odd_times(sessions):
    session = created(sessions, range(10), now=0)
    seen = [p for now in range(199, 1300, 199) for p in due(sessions, session, now, 1000)]
    assert set(seen) == set(range(10))


def test_a_sweep_passes_over_what_was_forgotten(sessions):
    session = created(sessions, range(4), now=0)
    assert due(sessions, session, now=250, sweep_ms=1000) == [0]
    begin(sessions, session.session_id, 1, forgotten=[1, 2])
    assert due(sessions, session, now=750, sweep_ms=1000) == [3]
    assert due(sessions, session, now=1250, sweep_ms=1000) == [0]


def test_what_returned_data_goes_behind_the_others(sessions, purgatory):
    session = created(sessions, [0, 1, 2])
    for p in (0, 1, 2):
        purgatory.wake(TopicPartition("t", p))
    first = session.due(0, 10_000)[0]
    session.settled(first, sent=True, settled=False)
    assert due(sessions, session) == [1, 2, 0]
    assert due(sessions, session, now=20_000, sweep_ms=1) == [1, 2, 0]
    session.check()


def test_an_unknown_topic_is_watched_from_when_its_name_is_known(sessions, purgatory):
    session = created(sessions, [0], topic=UNKNOWN_ID, ids=True, settled=False)
    (fetched,) = session.due(10_000, 10_000)
    assert not fetched.is_named
    session.named(fetched, "later")
    assert fetched.topic_partition == TopicPartition("later", 0)
    session.settled(fetched, sent=False, settled=True)
    purgatory.wake(TopicPartition("later", 0))
    assert due(sessions, session) == [0]


def test_settling_what_was_forgotten_meanwhile_does_not_bring_it_back(sessions):
    session = created(sessions, [0, 1])
    begin(sessions, session.session_id, 1, [0])
    (fetched,) = session.due(0, 10_000)
    begin(sessions, session.session_id, 2, forgotten=[0])
    session.settled(fetched, sent=True, settled=False)
    assert due(sessions, session) == []
    session.check()


# --- What is told -------------------------------------------------------------------------------


def test_only_changes_are_told(sessions):
    (fetched,) = begin(sessions, 0, 0, [0]).partitions.values()

    def told(hw, start, **kwargs):
        return fetched.told(hw, start, **{"failed": False, "urgent": False, **kwargs})

    assert told(5, 0)
    assert not told(5, 0)
    assert told(5, 0, urgent=True)
    assert told(6, 0)
    assert told(6, 1)
    assert not told(6, 1)


def test_a_failure_is_told_as_long_as_it_lasts_and_the_watermark_after_it(sessions):
    (fetched,) = begin(sessions, 0, 0, [0]).partitions.values()
    fetched.told(5, 0, failed=False, urgent=False)
    assert fetched.told(5, 0, failed=True, urgent=False)
    assert fetched.told(5, 0, failed=True, urgent=False)
    assert fetched.told(5, 0, failed=False, urgent=False)
    assert not fetched.told(5, 0, failed=False, urgent=False)


# --- The cache ----------------------------------------------------------------------------------


def test_a_full_cache_refuses_while_nobody_yields(sessions):
    for _ in range(3):
        assert created(sessions, [0, 1], now=0) is not None
    assert created(sessions, [0, 1, 2], now=YOUNG_MS) is None


def test_a_session_unused_for_two_minutes_yields_to_anybody(sessions):
    old = created(sessions, range(9), follower=True, now=0)
    for _ in range(2):
        created(sessions, [0, 1], now=YOUNG_MS)
    assert created(sessions, [0], now=OLD_MS) is not None
    assert begin(sessions, old.session_id, 1) is ErrorCode.FETCH_SESSION_ID_NOT_FOUND
    assert sessions.statistics().evictions == 1


def test_an_old_but_used_session_yields_to_a_greater_one_only(sessions):
    kept = [created(sessions, range(n), now=0) for n in (2, 3, 4)]
    for session in kept:
        begin(sessions, session.session_id, 1, now=OLD_MS - 1)
    assert created(sessions, [0, 1], now=OLD_MS) is None
    assert created(sessions, [0, 1, 2], now=OLD_MS) is not None
    assert begin(sessions, kept[0].session_id, 2) is ErrorCode.FETCH_SESSION_ID_NOT_FOUND
    assert begin(sessions, kept[1].session_id, 2, now=OLD_MS).incremental


def test_a_follower_takes_a_consumers_place_whatever_its_age(sessions):
    consumers = [created(sessions, range(n), now=0) for n in (3, 2, 4)]
    assert created(sessions, [0], follower=True, now=1) is not None
    assert begin(sessions, consumers[1].session_id, 1) is ErrorCode.FETCH_SESSION_ID_NOT_FOUND


def test_a_consumer_never_takes_a_followers_place_that_is_in_use(sessions):
    followers = [created(sessions, [0], follower=True, now=0) for _ in range(3)]
    for session in followers:
        begin(sessions, session.session_id, 1, now=OLD_MS - 1)
    assert created(sessions, range(100), now=OLD_MS) is None


def test_no_slots_means_no_sessions(purgatory):
    sessions = FetchSessions(watch=purgatory.watch, rng=random.Random(1), slots=0)
    assert created(sessions) is None


def test_a_dropped_session_leaves_no_watch_behind(sessions, purgatory):
    session = created(sessions, range(5))
    begin(sessions, session.session_id, -1)
    assert purgatory._watches == {}


def test_random_lives_keep_the_laws(purgatory):
    rng = random.Random(7)
    sessions = FetchSessions(watch=purgatory.watch, rng=rng, slots=4)
    live: dict[int, int] = {}
    now = 0
    for _ in range(2_000):
        now += rng.choice([1, 1, 1, 50_000])
        partitions = rng.sample(range(6), rng.randint(0, 4))
        if live and rng.random() < 0.7:
            session_id = rng.choice(list(live))
            context = begin(
                sessions, session_id, live[session_id], partitions, now=now,
                forgotten=rng.sample(range(6), rng.randint(0, 2)),
            )  # fmt: skip
            if isinstance(context, ErrorCode):
                assert context is ErrorCode.FETCH_SESSION_ID_NOT_FOUND
                del live[session_id]
                continue
            if context.session is None:
                del live[session_id]
                continue
            live[session_id] = context.session.epoch
            purgatory.wake(TopicPartition("t", rng.randrange(6)))
            for fetched in context.session.due(now, 1_000):
                context.session.settled(
                    fetched, sent=rng.random() < 0.5, settled=rng.random() < 0.5
                )
        else:
            context = begin(sessions, 0, 0, partitions, now=now, follower=rng.random() < 0.3)
            session = sessions.create(context, now) if context.wants_session else None
            if session is not None:
                live[session.session_id] = session.epoch
        sessions.check()
