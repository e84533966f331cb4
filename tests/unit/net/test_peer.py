"""Requests to another broker: pipelining, failures, and what a failure leaves behind."""

import socket
import struct

import pytest
import trio
import trio.testing
from net_world import ScriptedDispatcher, receive_frame

from zkafka.clock import Clock
from zkafka.errands import Errands
from zkafka.errors import LocalProtocolError, PeerUnreachable, RemoteProtocolError
from zkafka.model import BrokerInfo, Endpoint
from zkafka.net.listener import Admission, Limits, Listener
from zkafka.net.peer import SCRATCH, ControllerLink, Peer, Peers, tcp_connector
from zkafka.net.transport import StreamTransport
from zkafka.protocol.codec import decode_request_header, encode_response
from zkafka.protocol.connection import Budget
from zkafka.protocol.messages.fetch import (
    FetchableTopicResponse,
    FetchRequest,
    FetchResponse,
    PartitionData,
)
from zkafka.protocol.messages.heartbeat import HeartbeatRequest, HeartbeatResponse
from zkafka.server.metadata import MetadataImage

settle = trio.testing.wait_all_tasks_blocked
CONNECT = tcp_connector(trio.to_thread.run_sync)


class Broker:
    """The far end of each connection that a peer opens, over memory streams."""

    def __init__(self):
        self.opened = []
        self.refuse = None

    async def open(self, host, port):
        await trio.lowlevel.checkpoint()
        if self.refuse is not None:
            raise self.refuse
        ours, theirs = trio.testing.memory_stream_pair()
        self.opened.append(theirs)
        return StreamTransport(ours)

    @property
    def stream(self):
        return self.opened[-1]

    async def take(self):
        """The next request's correlation id."""
        return decode_request_header(await receive_frame(self.stream))[0].correlation_id

    async def answer(self, correlation_id, throttle_time_ms=0):
        response = HeartbeatResponse(throttle_time_ms=throttle_time_ms)
        await self.stream.send_all(b"".join(encode_response(response, 4, correlation_id)))


@pytest.fixture
def broker():
    return Broker()


@pytest.fixture
def peer(broker):
    return make(broker.open)


def make(open_transport, **options):
    endpoint = options.pop("endpoint", Endpoint("INTERNAL", "broker-2", 9092))
    return Peer(2, endpoint, "test", open_transport=open_transport, **options)


class Asked:
    """A request in a task of its own; `outcome` is its answer's throttle time or its exception."""

    def __init__(self, nursery, peer, generation=0, **options):
        self.outcome = None
        self.scope = trio.CancelScope()
        nursery.start_soon(self._ask, peer, generation, options)

    async def _ask(self, peer, generation, options):
        with self.scope:
            try:
                request = HeartbeatRequest(generation_id=generation)
                self.outcome = (await peer.request(request, **options)).throttle_time_ms
            except PeerUnreachable as error:
                self.outcome = error


# --- Answers ------------------------------------------------------------------------------------


async def test_a_request_connects_on_demand_and_is_answered(broker, peer, nursery):
    assert broker.opened == []
    asked = Asked(nursery, peer)
    await settle()
    await broker.answer(await broker.take(), 7)
    await settle()
    assert asked.outcome == 7
    again = Asked(nursery, peer)
    await settle()
    await broker.answer(await broker.take(), 8)
    await settle()
    assert again.outcome == 8
    assert len(broker.opened) == 1


async def test_the_header_names_us_and_the_version(broker, peer, nursery):
    Asked(nursery, peer)
    await settle()
    header, _ = decode_request_header(await receive_frame(broker.stream))
    assert (header.api_key, header.api_version, header.client_id) == (12, 4, "test")
    nursery.cancel_scope.cancel()


async def test_requests_are_pipelined(broker, peer, nursery):
    asked = [Asked(nursery, peer, i) for i in range(20)]
    await settle()
    ids = [await broker.take() for _ in range(20)]
    assert len(set(ids)) == 20
    for index, correlation_id in enumerate(ids):
        await broker.answer(correlation_id, index)
    await settle()
    assert sorted(a.outcome for a in asked) == list(range(20))


async def test_answers_in_pieces(broker, peer, nursery):
    asked = [Asked(nursery, peer) for _ in range(3)]
    await settle()
    data = b""
    for index in range(3):
        response = HeartbeatResponse(throttle_time_ms=index)
        data += b"".join(encode_response(response, 4, await broker.take()))
    for byte in data:
        await broker.stream.send_all(bytes([byte]))
        await settle()
    assert sorted(a.outcome for a in asked) == [0, 1, 2]


@pytest.mark.parametrize("size", [0, 10, SCRATCH - 100, SCRATCH, SCRATCH + 1, 3_000_000])
async def test_records_of_any_size_come_as_views(broker, peer, nursery, size):
    """Two answers together, so that the second begins wherever the first ends."""
    found = []

    async def fetch():
        response = await peer.request(FetchRequest())
        found.append(response.responses[0].partitions[0].records)

    records = [bytes([i]) * size for i in (1, 2)]
    nursery.start_soon(fetch)
    await settle()
    nursery.start_soon(fetch)
    await settle()
    data = b""
    for r in records:
        partition = PartitionData(records=r)
        topics = [FetchableTopicResponse(partitions=[partition])]
        response = FetchResponse(responses=topics)
        data += b"".join(encode_response(response, 17, await broker.take()))
    await broker.stream.send_all(data)
    await settle()
    assert [bytes(f) for f in found] == records
    assert all(isinstance(f, memoryview) for f in found)


async def test_the_memory_of_an_answer_that_nobody_looks_at_takes_the_next(broker, peer, nursery):
    async def fetch(records):
        answered = []

        async def ask():
            response = await peer.request(FetchRequest())
            answered.append(response.responses[0].partitions[0].records)

        nursery.start_soon(ask)
        await settle()
        topics = [FetchableTopicResponse(partitions=[PartitionData(records=records)])]
        response = FetchResponse(responses=topics)
        await broker.stream.send_all(b"".join(encode_response(response, 17, await broker.take())))
        await settle()
        [view] = answered
        assert bytes(view) == records
        return view

    memory = (await fetch(b"1" * 100_000)).obj
    second = await fetch(b"2" * 90_000)
    assert second.obj is memory
    third = await fetch(b"3" * 90_000)
    assert third.obj is not memory
    assert bytes(second) == b"2" * 90_000
    memory = third.obj
    del third
    assert (await fetch(b"4" * 95_000)).obj is not memory, "too small"
    memory = (await fetch(b"5" * 90_000)).obj
    await fetch(b"6")
    assert (await fetch(b"7" * 90_000)).obj is not memory, "given back after a small answer"


async def test_an_older_version_can_be_asked_for(broker, peer, nursery):
    outcome = []

    async def ask():
        outcome.append(await peer.request(HeartbeatRequest(group_id="g"), 0))

    nursery.start_soon(ask)
    await settle()
    header, _ = decode_request_header(await receive_frame(broker.stream))
    assert header.api_version == 0
    answer = encode_response(HeartbeatResponse(error_code=3), 0, header.correlation_id)
    await broker.stream.send_all(b"".join(answer))
    await settle()
    assert outcome[0].error_code == 3


# --- Failures -----------------------------------------------------------------------------------


async def test_a_refused_connection(broker, peer):
    broker.refuse = ConnectionRefusedError(111, "Connection refused")
    with pytest.raises(PeerUnreachable, match=r"broker 2 at broker-2:9092.*refused"):
        await peer.request(HeartbeatRequest())


async def test_a_broker_without_the_listener(broker):
    peer = make(broker.open, endpoint=None)
    with pytest.raises(PeerUnreachable, match="no listener"):
        await peer.request(HeartbeatRequest())


async def test_a_connection_that_does_not_come_about(autojump_clock):
    async def open_never(host, port):
        await trio.sleep_forever()

    began = trio.current_time()
    with pytest.raises(PeerUnreachable, match="no connection within 10000 ms"):
        await make(open_never).request(HeartbeatRequest())
    assert trio.current_time() - began == pytest.approx(10)


async def test_an_answer_that_does_not_come(broker, autojump_clock):
    peer = make(broker.open, request_timeout_ms=5000)
    began = trio.current_time()
    with pytest.raises(PeerUnreachable, match="within 5000 ms"):
        await peer.request(HeartbeatRequest())
    assert trio.current_time() - began == pytest.approx(5)
    with pytest.raises(PeerUnreachable, match="within 2000 ms"):
        await peer.request(HeartbeatRequest(), timeout_ms=2000)
    # The late answer would come on a connection that is not there any more.
    assert len(broker.opened) == 2


async def test_a_connection_that_ends_takes_all_requests_with_it_and_the_next_connects_anew(
    broker, peer, nursery
):
    asked = [Asked(nursery, peer) for _ in range(5)]
    await settle()
    await broker.answer(await broker.take(), 1)
    await settle()
    await broker.stream.aclose()
    await settle()
    outcomes = [a.outcome for a in asked]
    assert outcomes.count(1) == 1
    assert sum(isinstance(o, PeerUnreachable) for o in outcomes) == 4
    again = Asked(nursery, peer)
    await settle()
    await broker.answer(await broker.take(), 2)
    await settle()
    assert again.outcome == 2
    assert len(broker.opened) == 2


async def test_one_late_answer_fails_those_behind_it_too(broker, nursery, autojump_clock):
    """Since they could be answered only after it."""
    peer = make(broker.open)
    first = Asked(nursery, peer, timeout_ms=1000)
    await settle()
    second = Asked(nursery, peer, timeout_ms=60_000)
    await trio.sleep(2)
    assert isinstance(first.outcome, PeerUnreachable)
    assert isinstance(second.outcome, PeerUnreachable)


@pytest.mark.parametrize(
    "answer",
    [
        struct.pack(">i", -1),
        struct.pack(">i", 3),
        struct.pack(">i", 2_000_000),
        struct.pack(">ii", 4, 999),
        struct.pack(">ii", 5, 1) + b"\0",
    ],
    ids=["negative", "too small", "too large", "another's", "cut short"],
)
async def test_nonsense_ends_the_connection(broker, nursery, answer):
    peer = make(broker.open, response_max_bytes=1_000_000)
    asked = Asked(nursery, peer)
    await settle()
    await broker.take()
    await broker.stream.send_all(answer)
    await settle()
    assert isinstance(asked.outcome, PeerUnreachable)
    assert isinstance(asked.outcome.__cause__, RemoteProtocolError)
    assert await broker.stream.receive_some() == b""


async def test_a_message_that_cannot_be_written_harms_nothing(broker, peer, nursery):
    with pytest.raises(LocalProtocolError):
        await peer.request(HeartbeatRequest(generation_id=2**40))
    asked = Asked(nursery, peer)
    await settle()
    await broker.answer(await broker.take(), 1)
    await settle()
    assert asked.outcome == 1


# --- Giving up ----------------------------------------------------------------------------------


@pytest.mark.parametrize("given_up", [{0}, {1}, {2}, {0, 1}, {1, 2}, {0, 2}])
async def test_requests_given_up_leave_the_others_their_answers(broker, peer, nursery, given_up):
    asked = []
    for generation in range(3):
        asked.append(Asked(nursery, peer, generation))
        await settle()
    ids = [await broker.take() for _ in range(3)]
    for index in given_up:
        asked[index].scope.cancel()
    await settle()
    for index, correlation_id in enumerate(ids):
        await broker.answer(correlation_id, 10 + index)
    await settle()
    outcomes = [a.outcome for a in asked]
    assert outcomes == [None if i in given_up else 10 + i for i in range(3)]
    assert len(broker.opened) == 1


async def test_an_answer_given_up_is_skipped_by_the_next_request(broker, peer, nursery):
    first = Asked(nursery, peer)
    await settle()
    old = await broker.take()
    first.scope.cancel()
    await settle()
    second = Asked(nursery, peer)
    await settle()
    await broker.answer(old, 1)
    await broker.answer(await broker.take(), 2)
    await settle()
    assert second.outcome == 2
    assert len(broker.opened) == 1


async def test_giving_up_in_the_middle_of_an_answer(broker, peer, nursery):
    """What came of it stays, and the next request reads the rest."""
    first = Asked(nursery, peer)
    await settle()
    data = b"".join(encode_response(HeartbeatResponse(), 4, await broker.take()))
    await broker.stream.send_all(data[:6])
    await settle()
    second = Asked(nursery, peer)
    await settle()
    first.scope.cancel()
    await settle()
    await broker.stream.send_all(data[6:])
    await broker.answer(await broker.take(), 2)
    await settle()
    assert second.outcome == 2


async def test_a_request_given_up_half_sent_ends_the_connection(nursery):
    opened = []

    async def open_transport(host, port):
        ours, theirs = trio.testing.lockstep_stream_pair()
        opened.append(theirs)
        return StreamTransport(ours)

    peer = make(open_transport)
    asked = Asked(nursery, peer)
    await settle()
    assert await opened[0].receive_some(5)
    asked.scope.cancel()
    await settle()
    again = Asked(nursery, peer)
    await settle()
    assert len(opened) == 2
    # The first was closed, not left behind.
    with pytest.raises(trio.BrokenResourceError):
        await opened[0].send_all(b"x")
    again.scope.cancel()


# --- Idle connections ---------------------------------------------------------------------------


async def test_a_connection_closed_while_idle_is_replaced_unnoticed(nursery):
    """A broker restarted, or closed it for being idle: the next request must not fail for it."""
    listener, _ = await listening(nursery)
    peer = make(CONNECT, endpoint=Endpoint("PLAINTEXT", "127.0.0.1", listener.port))
    assert (await peer.request(HeartbeatRequest(generation_id=1))).throttle_time_ms == 1
    for conversation in list(listener._conversations.values()):
        conversation.stop()
    while listener.statistics().open:
        await trio.lowlevel.checkpoint()
    await trio.lowlevel.checkpoint()
    assert (await peer.request(HeartbeatRequest(generation_id=2))).throttle_time_ms == 2
    assert listener.statistics().accepted == 2
    await peer.aclose()


async def test_aclose_drops_the_connection_and_the_next_request_connects_anew(
    broker, peer, nursery
):
    asked = Asked(nursery, peer)
    await settle()
    await peer.aclose()
    await settle()
    assert isinstance(asked.outcome, PeerUnreachable)
    again = Asked(nursery, peer)
    await settle()
    await broker.answer(await broker.take(), 3)
    await settle()
    assert again.outcome == 3
    await peer.aclose()
    await peer.aclose()


# --- Over TCP -----------------------------------------------------------------------------------


async def listening(nursery):
    dispatcher = ScriptedDispatcher()
    listener = Listener(
        Endpoint("PLAINTEXT", "127.0.0.1", 0),
        dispatcher,
        limits=Limits(),
        budget=Budget(),
        admission=Admission(),
        clock=Clock(),
        run_in_thread=trio.to_thread.run_sync,
        errands=Errands(),
    )
    listener.bind()
    await nursery.start(listener.serve)
    return listener, dispatcher


async def test_many_requests_over_tcp(nursery):
    listener, _ = await listening(nursery)
    peer = make(CONNECT, endpoint=Endpoint("PLAINTEXT", "localhost", listener.port))
    asked = [Asked(nursery, peer, i) for i in range(100)]
    while any(a.outcome is None for a in asked):
        await trio.lowlevel.checkpoint()
    assert [a.outcome for a in asked] == list(range(100))
    assert listener.statistics().accepted == 1
    await peer.aclose()


async def test_connections_start_from_the_address_they_are_told(nursery):
    listener, dispatcher = await listening(nursery)
    connector = tcp_connector(
        trio.to_thread.run_sync, bind_address="127.0.0.77", receive_buffer_bytes=65536
    )
    peer = make(connector, endpoint=Endpoint("PLAINTEXT", "127.0.0.1", listener.port))
    await peer.request(HeartbeatRequest())
    assert dispatcher.connections[0].peer_host == "127.0.0.77"
    await peer.aclose()


async def test_nobody_listens():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        endpoint = Endpoint("PLAINTEXT", "127.0.0.1", holder.getsockname()[1])
        with pytest.raises(PeerUnreachable, match="refused"):
            await make(CONNECT, endpoint=endpoint).request(HeartbeatRequest())


async def test_a_host_without_an_address():
    endpoint = Endpoint("PLAINTEXT", "nowhere.invalid", 9092)
    with pytest.raises(PeerUnreachable, match=r"nowhere\.invalid"):
        await make(CONNECT, endpoint=endpoint).request(HeartbeatRequest())


async def test_a_connection_to_itself_is_refused():
    """Both ends on one port: what the kernel may do on loopback when nobody listens there."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
    real_bind = socket.socket.bind

    class Bound(socket.socket):
        def bind(self, address):
            real_bind(self, (address[0], port))

    connector = tcp_connector(trio.to_thread.run_sync, bind_address="127.0.0.1")
    original = socket.socket
    socket.socket = Bound
    try:
        endpoint = Endpoint("PLAINTEXT", "127.0.0.1", port)
        with pytest.raises(PeerUnreachable, match="refused"):
            await make(connector, endpoint=endpoint).request(HeartbeatRequest())
    finally:
        socket.socket = original


# --- Who to ask ---------------------------------------------------------------------------------


class Cluster:
    """Metadata that changes, and a far end for each host."""

    def __init__(self):
        self.image = MetadataImage(cluster_id="c")
        self.brokers = {}
        self.peers = Peers(
            lambda: self.image, "INTERNAL", client_id="test", open_transport=self.open
        )
        self.link = ControllerLink(lambda: self.image, self.peers)

    def add(self, broker_id, listener="INTERNAL", port=9092):
        endpoint = Endpoint(listener, f"host-{broker_id}", port)
        self.brokers[endpoint.host, port] = Broker()
        info = BrokerInfo(broker_id, {listener: endpoint})
        brokers = {**self.image.brokers, broker_id: info}
        self.image = MetadataImage(
            cluster_id="c", controller_id=self.image.controller_id, brokers=brokers
        )
        return self.brokers[endpoint.host, port]

    def elect(self, broker_id):
        self.image = MetadataImage(
            cluster_id="c", controller_id=broker_id, brokers=self.image.brokers
        )

    async def open(self, host, port):
        return await self.brokers[host, port].open(host, port)


async def test_peers_are_made_where_the_metadata_has_them(nursery):
    cluster = Cluster()
    one = cluster.add(1)
    asked = Asked(nursery, cluster.peers.connect(1))
    await settle()
    await one.answer(await one.take(), 5)
    await settle()
    assert asked.outcome == 5


async def test_peers_that_the_metadata_lacks():
    cluster = Cluster()
    cluster.add(1, listener="OTHER")
    with pytest.raises(PeerUnreachable, match="broker 2 is not alive"):
        cluster.peers.connect(2)
    with pytest.raises(PeerUnreachable, match="no listener"):
        await cluster.peers.connect(1).request(HeartbeatRequest())


async def test_the_controller_link_follows_the_metadata(nursery):
    cluster = Cluster()
    with pytest.raises(PeerUnreachable, match="no controller"):
        await cluster.link.request(HeartbeatRequest())
    first, second = cluster.add(1), cluster.add(2)
    for controller, far in ((1, first), (2, second)):
        cluster.elect(controller)
        asked = Asked(nursery, cluster.link)
        await settle()
        await far.answer(await far.take(), controller)
        await settle()
        assert asked.outcome == controller
    # The connection to the former one is closed.
    assert await first.stream.receive_some() == b""
    await cluster.link.aclose()


async def test_the_controller_link_follows_a_controller_that_moved(nursery):
    cluster = Cluster()
    old = cluster.add(1, port=9092)
    cluster.elect(1)
    asked = Asked(nursery, cluster.link)
    await settle()
    await old.answer(await old.take(), 1)
    await settle()
    new = cluster.add(1, port=9093)
    again = Asked(nursery, cluster.link)
    await settle()
    await new.answer(await new.take(), 2)
    await settle()
    assert (asked.outcome, again.outcome) == (1, 2)


async def test_a_controller_that_is_not_alive():
    cluster = Cluster()
    cluster.elect(9)
    with pytest.raises(PeerUnreachable, match="broker 9 is not alive"):
        await cluster.link.request(HeartbeatRequest())


async def test_who_waits_for_a_former_controller_is_let_go(nursery):
    """It may be stopped, and the new one is known: there is no reason to wait for the timeout."""
    cluster = Cluster()
    cluster.add(1)
    second = cluster.add(2)
    cluster.elect(1)
    asked = [Asked(nursery, cluster.link) for _ in range(2)]
    await settle()
    cluster.link.controller_changed()
    await settle()
    assert [a.outcome for a in asked] == [None, None], "it is still the controller"
    cluster.elect(2)
    cluster.link.controller_changed()
    await settle()
    for a in asked:
        assert isinstance(a.outcome, PeerUnreachable)
        assert "broker 1 is not the controller any more" in str(a.outcome)
    again = Asked(nursery, cluster.link)
    await settle()
    await second.answer(await second.take(), 2)
    await settle()
    assert again.outcome == 2
    await cluster.link.aclose()


async def test_who_is_cancelled_while_asking_the_controller_is_just_that(nursery):
    cluster = Cluster()
    cluster.add(1)
    cluster.elect(1)
    asked = Asked(nursery, cluster.link)
    await settle()
    asked.scope.cancel()
    await settle()
    assert asked.scope.cancelled_caught
    assert asked.outcome is None
    await cluster.link.aclose()
