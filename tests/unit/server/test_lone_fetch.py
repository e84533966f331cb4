"""A follower's fetch of one partition, read and answered by hand, against the general way.

Two brokers of the same story, one of which reads nothing by hand. Whatever happens to the logs and
the topics, and whatever the follower asks in its session, both wait, and answer, alike.
"""

from unittest import mock

import server_fakes as fakes
import trio
import trio.testing
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zkafka.errors import ErrorCode
from zkafka.model import TopicPartition
from zkafka.protocol import codec
from zkafka.protocol.connection import ConnectionInfo, Request
from zkafka.protocol.messages.fetch import FetchPartition, FetchRequest, FetchTopic, ReplicaState
from zkafka.server import dispatch
from zkafka.server.dispatch import Dispatcher

FROM = ConnectionInfo(1, "127.0.0.1", 1234, fakes.LISTENER)
settle = trio.testing.wait_all_tasks_blocked


class Side:
    """A broker, asked by one follower that fetches partitions 0 and 1 in a session."""

    def __init__(self, *, by_hand):
        self.parts = fakes.parts()
        self.by_hand = by_hand
        self.dispatcher = Dispatcher(self.parts)
        self.parts.metadata.apply(fakes.update_metadata())
        for partition in (0, 1):
            self.parts.replicas.put(TopicPartition("t", partition))
        self.session_id = self.epoch = 0
        self.pending = None
        self.answers = []

    def happens(self, what, partition, number):
        tp = TopicPartition("t", partition)
        replicas = self.parts.replicas
        if what == "put":
            replicas.put(tp, number)
        elif what == "put both":
            replicas.put(TopicPartition("t", 1 - partition), number)
            replicas.put(tp, number)
        elif what == "fail":
            replicas.errors[tp] = ErrorCode.NOT_LEADER_OR_FOLLOWER
            self.parts.purgatory.wake(tp)
        elif what == "heal":
            replicas.errors.pop(tp, None)
            self.parts.purgatory.wake(tp)
        elif what == "metadata":
            news = {"leader": -2} if number == 0 else {"topics": ("t", f"other{number}")}
            self.parts.metadata.apply(fakes.update_metadata(**news))  # -2: it is deleted
        elif self.pending is None:
            self.fetch([(partition, number)] if what == "fetch" else [])

    def fetch(self, places, *, wait_ms=500, min_bytes=20):
        partitions = [
            FetchPartition(partition=p, fetch_offset=offset, partition_max_bytes=60)
            for p, offset in places
        ]
        message = FetchRequest(
            replica_state=ReplicaState(replica_id=2, replica_epoch=9),
            max_wait_ms=wait_ms,
            min_bytes=min_bytes,
            max_bytes=80,
            session_id=self.session_id,
            session_epoch=self.epoch,
            topics=[FetchTopic(topic_id=fakes.TOPIC_ID, partitions=partitions)] if places else [],
        )
        frame = memoryview(bytearray(b"".join(codec.encode_request(message, 17, 8, "f"))[4:]))
        header, offset = codec.decode_request_header(frame)
        request = Request(header, frame[offset:], len(frame))
        with mock.patch.object(
            dispatch.hot_fetch,
            "lone_fetch",
            dispatch.hot_fetch.lone_fetch if self.by_hand else lambda version, body: None,
        ):
            begun = self.dispatcher.begin(request, FROM)
        if isinstance(begun, list):
            self.answered(begun)
        else:
            self.pending = begun
            begun.when_ready(self.over)

    def over(self):
        pending, self.pending = self.pending, None
        assert pending.ready
        self.answered(pending.answer())
        pending.give_up()

    def answered(self, answer):
        data = b""
        for part in answer:
            if isinstance(part, fakes.FakeSlice):
                data += b"x" * part.size
                part.release()
            else:
                data += part
        response = codec.decode_response(dispatch.FetchResponse, 17, memoryview(data)[4:])[1]
        self.session_id = response.session_id
        self.epoch = 0 if response.error_code else self.epoch + 1
        self.answers.append((trio.current_time(), data))

    def state(self):
        """All that the next fetch depends on, and what is counted."""
        assert self.parts.replicas.held == [] or self.pending is not None
        self.parts.fetch_sessions.check()
        session = self.parts.fetch_sessions._sessions.get(self.session_id)
        [counters] = self.parts.requests.statistics().values()
        return (
            self.answers,
            self.pending is None,
            session and (session.epoch, session.used_ms),
            session and [told(fetched) for fetched in session._partitions.values()],
            session and sorted(fetched.key for fetched in session._unsettled),
            self.parts.purgatory.statistics(),
            self.parts.traffic.statistics(),
            (counters.requests, counters.errors, counters.count),
        )  # fmt: skip


def told(fetched):
    return (
        fetched.key, fetched.fetch_offset, fetched.sent_high_watermark, fetched.turn,
        fetched.sent_log_start_offset,
    )  # fmt: skip


PARTITION = st.sampled_from([0, 0, 0, 1])
PAUSE_S = st.sampled_from([0.0, 0.0, 0.0, 0.1, 0.6, 6.0])
EVENTS = st.lists(
    st.one_of(
        # Offsets at the log's end, before it and beyond, as the follower goes on and is refused.
        st.tuples(st.just("fetch"), PARTITION, st.integers(0, 4), PAUSE_S),
        st.tuples(st.just("fetch"), st.just(0), st.integers(0, 4), st.just(0.0)),
        st.tuples(st.just("put"), PARTITION, st.integers(5, 30), PAUSE_S),
        st.tuples(st.just("put both"), PARTITION, st.integers(5, 30), st.just(0.0)),
        st.tuples(
            st.sampled_from(["nothing", "fail", "heal", "heal", "metadata"]),
            PARTITION,
            st.integers(0, 2),
            PAUSE_S,
        ),
    ),
    max_size=25,
)


async def story(events):
    sides = [Side(by_hand=True), Side(by_hand=False)]
    for side in sides:
        side.fetch([(0, 0), (1, 0)], wait_ms=0)
    for what, partition, number, pause_s in events:
        for side in sides:
            side.happens(what, partition, number)
        await settle()
        await trio.sleep(pause_s)
        await settle()
        assert sides[0].state() == sides[1].state()
    await trio.sleep(1)
    assert sides[0].state() == sides[1].state()
    assert all(side.pending is None for side in sides)


@settings(max_examples=200)
@given(EVENTS)
# Enough in one, and another moves before the answer; enough in both together; it fails; it goes.
@example([("fetch", 0, 0, 0.0), ("put both", 1, 25, 0.0)])
@example([("fetch", 0, 0, 0.0), ("put both", 1, 10, 0.0)])
@example([("fetch", 0, 0, 0.0), ("put", 1, 10, 0.0), ("put", 0, 12, 0.0)])
@example([("fetch", 0, 0, 0.0), ("fail", 0, 0, 0.0)])
@example([("fetch", 0, 0, 0.0), ("metadata", 0, 0, 0.0), ("put", 0, 25, 0.0)])
def test_both_ways_tell_the_same_whatever_happens(events):
    trio.run(story, events, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_the_ordinary_fetches_are_read_by_hand(autojump_clock, monkeypatch):
    side = Side(by_hand=True)
    side.fetch([(0, 0), (1, 0)], wait_ms=0)

    def general(*_):
        raise AssertionError("not by hand")

    monkeypatch.setattr(dispatch.fetch, "begin", general)
    for offset in range(5):
        side.fetch([(0, offset)])
        assert side.pending is not None
        side.parts.replicas.put(TopicPartition("t", 0), 30)
        assert side.pending is not None, "not in the step of whoever moves it"
        await settle()
        assert side.pending is None
    assert len(side.answers) == 6
    assert trio.current_time() == 0
