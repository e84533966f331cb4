"""A listener on loopback: addresses, limits, sweeps, pauses and its end."""

import errno
import logging
import os
import resource
import socket

import pytest
import trio
import trio.testing
from net_world import ScriptedDispatcher, heartbeat, produce, receive_exactly, receive_ids

from zkafka.clock import Clock
from zkafka.config import BrokerConfig
from zkafka.errands import Errands
from zkafka.errors import StartupError
from zkafka.model import Endpoint
from zkafka.net import listener as module
from zkafka.net.listener import (
    FD_LIMIT_MAX,
    Admission,
    Limits,
    Listener,
    raise_fd_limit,
)
from zkafka.protocol.connection import START, Budget

settle = trio.testing.wait_all_tasks_blocked


def make(*, host="127.0.0.1", port=0, dispatcher=None, admission=None, budget=None, **options):
    limits = options.pop("limits", Limits())
    return Listener(
        Endpoint("PLAINTEXT", host, port),
        dispatcher or ScriptedDispatcher(),
        limits=limits,
        budget=budget or Budget(),
        admission=admission or Admission(),
        clock=Clock(),
        run_in_thread=trio.to_thread.run_sync,
        errands=Errands(),
        **options,
    )


@pytest.fixture
async def listener(nursery):
    made = make()
    made.bind()
    await nursery.start(made.serve)
    return made


async def connect(listener, host="127.0.0.1"):
    return await trio.open_tcp_stream(host, listener.port)


async def closed(stream):
    """Assert that the other side closes without another byte."""
    try:
        assert await stream.receive_some() == b""
    except trio.BrokenResourceError:
        pass  # closed with something of ours unread
    await stream.aclose()


# --- Addresses ----------------------------------------------------------------------------------


async def test_any_free_port_is_told(listener):
    assert listener.port > 0
    async with await connect(listener) as client:
        await client.send_all(heartbeat(1) + produce(2))
        assert await receive_ids(client, 2) == [1, 2]


def test_a_taken_address_is_named():
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(StartupError, match=f"PLAINTEXT.*127.0.0.1:{port}.*in use"):
            make(port=port).bind()


def test_an_address_that_is_not_ours_is_named():
    with pytest.raises(StartupError, match=r"192\.0\.2\.1:9092"):
        make(host="192.0.2.1", port=9092).bind()


def test_a_host_that_does_not_exist_is_named():
    with pytest.raises(StartupError, match=r"nowhere\.invalid"):
        make(host="nowhere.invalid", port=9092).bind()


async def test_connections_wait_between_bind_and_serve(nursery):
    """So that a broker may register before it serves, and nobody is refused."""
    listener = make()
    listener.bind()
    client = await connect(listener)
    await client.send_all(heartbeat(1))
    await nursery.start(listener.serve)
    assert await receive_ids(client, 1) == [1]
    await client.aclose()


async def test_an_empty_host_is_every_interface_and_ipv4_peers_look_like_ipv4(nursery):
    dispatcher = ScriptedDispatcher()
    listener = make(host="", dispatcher=dispatcher)
    listener.bind()
    await nursery.start(listener.serve)
    async with await connect(listener) as client:
        await client.send_all(heartbeat(1))
        await receive_ids(client, 1)
        (info,) = dispatcher.connections
        assert info.peer_host == "127.0.0.1"
        assert info.peer_port == client.socket.getsockname()[1]
        assert info.listener_name == "PLAINTEXT"


async def test_a_listener_never_served_frees_its_address():
    listener = make()
    listener.bind()
    port = listener.port
    await listener.aclose()
    again = make(port=port)
    again.bind()
    await again.aclose()


async def test_connections_inherit_the_options_of_the_listener(nursery):
    listener = make(limits=Limits(send_buffer_bytes=40_000, receive_buffer_bytes=50_000))
    listener.bind()
    options = {}
    admit = listener._admit

    def looked_at(sock, address, nursery):
        for name in ("SO_SNDBUF", "SO_RCVBUF"):
            options[name] = sock.getsockopt(socket.SOL_SOCKET, getattr(socket, name))
        options["TCP_NODELAY"] = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        admit(sock, address, nursery)

    listener._admit = looked_at
    await nursery.start(listener.serve)
    async with await connect(listener) as client:
        await client.send_all(heartbeat(1))
        await receive_ids(client, 1)
    # The kernel doubles what it is told, for its own bookkeeping.
    assert options == {"SO_SNDBUF": 80_000, "SO_RCVBUF": 100_000, "TCP_NODELAY": 1}


def test_limits_come_from_the_configuration():
    config = BrokerConfig.parse(
        {
            "broker.id": "1",
            "zookeeper.connect": "localhost:2181",
            "log.dirs": "/tmp/x",
            "socket.request.max.bytes": "1000",
            "queued.max.requests": "7",
            "connections.max.idle.ms": "-1",
            "max.connections.per.ip": "3",
            "max.connections.per.ip.overrides": "10.0.0.1:5",
        }
    )
    limits = Limits.of(config)
    assert (limits.request_max_bytes, limits.requests_max) == (1000, 7)
    assert limits.request_bytes_max == 1000
    assert limits.idle_max_ms is None
    admission = Admission.of(config)
    assert [admission.try_enter("10.0.0.1") is None for _ in range(6)] == [False] * 5 + [True]
    assert [admission.try_enter("10.0.0.2") is None for _ in range(4)] == [False] * 3 + [True]


# --- Limits -------------------------------------------------------------------------------------


async def test_at_max_connections_the_next_waits_for_one_to_close(nursery, caplog):
    listener = make(admission=Admission(connections_max=2))
    listener.bind()
    await nursery.start(listener.serve)
    clients = [await connect(listener) for _ in range(3)]
    for index, client in enumerate(clients):
        await client.send_all(heartbeat(index))
    assert await receive_ids(clients[0], 1) == [0]
    assert await receive_ids(clients[1], 1) == [1]
    await settle()
    assert listener.statistics().open == 2
    await clients[0].aclose()
    assert await receive_ids(clients[2], 1) == [2]
    assert "max.connections reached" in caplog.text
    for client in clients:
        await client.aclose()


async def test_an_exempt_listener_is_not_held_up(nursery):
    admission = Admission(connections_max=1)
    listener = make(admission=admission, exempt=True)
    listener.bind()
    await nursery.start(listener.serve)
    clients = [await connect(listener) for _ in range(3)]
    for index, client in enumerate(clients):
        await client.send_all(heartbeat(index))
        assert await receive_ids(client, 1) == [index]
        await client.aclose()


async def test_above_the_limit_of_its_address_a_connection_is_closed_at_once(nursery, caplog):
    caplog.set_level(logging.INFO)
    listener = make(admission=Admission(per_ip_max=1))
    listener.bind()
    await nursery.start(listener.serve)
    first = await connect(listener)
    await first.send_all(heartbeat(1))
    assert await receive_ids(first, 1) == [1]
    await closed(await connect(listener))
    assert listener.statistics().refused == 1
    assert "max.connections.per.ip" in caplog.text
    await first.aclose()
    await settle()
    async with await connect(listener) as again:
        await again.send_all(heartbeat(2))
        assert await receive_ids(again, 1) == [2]


def test_admission_counts_by_address_and_forgets_those_gone():
    admission = Admission(per_ip_max=1, per_ip_overrides={"10.0.0.1": 2})
    ids = [admission.try_enter(h) for h in ("10.0.0.1", "10.0.0.1", "10.0.0.2")]
    assert None not in ids
    assert len(set(ids)) == 3
    assert admission.try_enter("10.0.0.1") is None
    assert admission.try_enter("10.0.0.2") is None
    admission.leave("10.0.0.2")
    assert admission.try_enter("10.0.0.2") is not None
    assert admission.open == 3


async def test_a_hundred_connections_announcing_100_mib_cost_little(nursery):
    budget = Budget(limit=10 << 20)
    listener = make(budget=budget)
    listener.bind()
    await nursery.start(listener.serve)
    clients = [await connect(listener) for _ in range(100)]
    for client in clients:
        await client.send_all((100 << 20).to_bytes(4, "big") + b"some of it")
    while listener.statistics().bytes_in < 100 * 14:
        await trio.lowlevel.checkpoint()
    assert budget.used <= 100 * START
    # And others are served meanwhile.
    async with await connect(listener) as other:
        await other.send_all(produce(1, bytes(500_000)))
        assert await receive_ids(other, 1) == [1]
    for client in clients:
        await client.aclose()


# --- Pauses -------------------------------------------------------------------------------------


class NoDescriptors:
    """A listening socket that fails some times before it accepts."""

    def __init__(self, real, codes):
        self._real = real
        self._codes = list(codes)

    def accept(self):
        if self._codes:
            code = self._codes.pop(0)
            raise OSError(code, errno.errorcode[code])
        return self._real.accept()

    def __getattr__(self, name):
        return getattr(self._real, name)


async def test_out_of_descriptors_it_pauses_says_so_once_and_goes_on(
    nursery, autojump_clock, caplog
):
    caplog.set_level(logging.WARNING)
    listener = make()
    listener.bind()
    listener._socket = NoDescriptors(listener._socket, [errno.EMFILE] * 5 + [errno.ENFILE] * 5)
    autojump_clock.autojump_threshold = 0.02
    began = trio.current_time()
    await nursery.start(listener.serve)
    async with await connect(listener) as client:
        await client.send_all(heartbeat(1))
        assert await receive_ids(client, 1) == [1]
    assert trio.current_time() - began >= 0.9
    messages = [r.getMessage() for r in caplog.records]
    assert sum("cannot accept" in m for m in messages) == 1
    assert sum("accepting again" in m for m in messages) == 1


async def test_connections_leave_descriptors_to_the_logs(
    nursery, autojump_clock, caplog, monkeypatch
):
    """A quarter of 40: who would get number 30 waits."""
    caplog.set_level(logging.WARNING)
    autojump_clock.autojump_threshold = 0.02
    listener = make()
    others = 28
    monkeypatch.setattr(resource, "getrlimit", lambda _: (40, 40))
    monkeypatch.setattr(
        module, "_lowest_free_fd", lambda _: others + listener.statistics().accepted
    )
    listener.bind()
    await nursery.start(listener.serve)
    clients = [await connect(listener) for _ in range(5)]
    await trio.sleep(5)
    assert listener.statistics().accepted == 2
    others = 27  # one goes, so one more comes in
    await trio.sleep(5)
    assert listener.statistics().accepted == 3
    (warning,) = caplog.records
    assert "cannot accept" in warning.getMessage()
    assert "below 30" in warning.getMessage()
    others = 10
    await trio.sleep(1)
    for client in clients:
        await client.send_all(heartbeat(1))
        assert await receive_ids(client, 1) == [1]
        await client.aclose()
    assert "accepting again" in caplog.records[-1].getMessage()
    assert len(caplog.records) == 2


def test_the_lowest_free_descriptor_is_found_also_when_there_is_none(monkeypatch):
    with socket.socket() as sock:
        found = module._lowest_free_fd(sock)
        with socket.socket() as another:
            assert another.fileno() == found

        def dup(_fd):
            raise OSError(errno.EMFILE, "too many")

        monkeypatch.setattr(os, "dup", dup)
        assert module._lowest_free_fd(sock) >= module._connections_end()


async def test_connections_lost_in_the_queue_are_nobodys_fault(nursery):
    listener = make()
    listener.bind()
    codes = [errno.ECONNABORTED, errno.EPERM, errno.EPROTO]
    listener._socket = NoDescriptors(listener._socket, codes)
    await nursery.start(listener.serve)
    async with await connect(listener) as client:
        await client.send_all(heartbeat(1))
        assert await receive_ids(client, 1) == [1]


async def test_any_other_error_of_accept_leaves():
    listener = make()
    listener.bind()
    listener._socket = NoDescriptors(listener._socket, [errno.EINVAL])
    with pytest.raises(ExceptionGroup) as caught:
        await listener.serve()
    assert caught.value.subgroup(OSError) is not None


# --- The sweep ----------------------------------------------------------------------------------


async def swept(listener, clock, seconds, steps=1):
    """Let virtual time pass until the sweep has seen it."""
    for _ in range(steps):
        await settle()
        clock.jump(seconds / steps)
    await settle()


async def test_an_idle_connection_is_closed(mock_clock, nursery):
    listener = make(limits=Limits(idle_max_ms=60_000))
    listener.bind()
    await nursery.start(listener.serve)
    idle, lively = await connect(listener), await connect(listener)
    await idle.send_all(heartbeat(1))
    await receive_ids(idle, 1)
    await swept(listener, mock_clock, 40, steps=2)
    await lively.send_all(heartbeat(2))
    await receive_ids(lively, 1)
    await swept(listener, mock_clock, 30, steps=2)
    await closed(idle)
    assert listener.statistics().open == 1
    assert listener.statistics().dropped == 1
    await lively.aclose()


async def test_a_connection_owed_an_answer_is_not_idle(mock_clock, nursery):
    dispatcher = ScriptedDispatcher()
    gate = dispatcher.gates[1] = trio.Event()
    listener = make(limits=Limits(idle_max_ms=1000), dispatcher=dispatcher)
    listener.bind()
    await nursery.start(listener.serve)
    async with await connect(listener) as client:
        await client.send_all(heartbeat(1))
        while not dispatcher.handled:
            await trio.lowlevel.checkpoint()
        await swept(listener, mock_clock, 100, steps=10)
        gate.set()
        assert await receive_ids(client, 1) == [1]


async def test_no_idle_limit(mock_clock, nursery):
    listener = make(limits=Limits(idle_max_ms=None))
    listener.bind()
    await nursery.start(listener.serve)
    async with await connect(listener) as client:
        await swept(listener, mock_clock, 100_000, steps=3)
        await client.send_all(heartbeat(1))
        assert await receive_ids(client, 1) == [1]


async def test_a_client_that_does_not_read_its_answer_is_dropped(mock_clock, nursery, caplog):
    caplog.set_level(logging.INFO)
    dispatcher = ScriptedDispatcher()
    dispatcher.answers[1] = [bytes(50_000_000)]
    listener = make(dispatcher=dispatcher)
    listener.bind()
    await nursery.start(listener.serve)
    client = await connect(listener)
    await client.send_all(heartbeat(1))
    while listener.statistics().requests < 1:
        await trio.lowlevel.checkpoint()
    await swept(listener, mock_clock, 20, steps=2)
    assert listener.statistics().open == 1
    await swept(listener, mock_clock, 20, steps=2)
    assert listener.statistics().open == 0
    assert "does not read" in caplog.text
    await client.aclose()


async def test_a_slow_frame_gives_way_only_while_memory_is_scarce(mock_clock, nursery):
    budget = Budget()
    listener = make(budget=budget, limits=Limits(idle_max_ms=None))
    listener.bind()
    await nursery.start(listener.serve)
    slow = await connect(listener)
    await slow.send_all(heartbeat(1)[:7])
    while listener.statistics().bytes_in < 7:
        await trio.lowlevel.checkpoint()
    await swept(listener, mock_clock, 100, steps=2)
    assert listener.statistics().open == 1
    budget.waiting = 1
    await swept(listener, mock_clock, 2, steps=2)
    assert listener.statistics().open == 0
    await slow.aclose()


# --- The end ------------------------------------------------------------------------------------


async def test_stop_answers_what_was_begun_and_closes(autojump_clock):
    dispatcher = ScriptedDispatcher()
    gate = dispatcher.gates[1] = trio.Event()
    listener = make(dispatcher=dispatcher)
    listener.bind()
    autojump_clock.autojump_threshold = 0.02
    async with trio.open_nursery() as nursery:
        await nursery.start(listener.serve)
        busy, idle = await connect(listener), await connect(listener)
        await busy.send_all(heartbeat(1))
        while not dispatcher.handled or listener.statistics().open < 2:
            await trio.lowlevel.checkpoint()
        port = listener.port
        listener.stop()
        await closed(idle)
        with pytest.raises(OSError, match="all attempts"):
            await trio.open_tcp_stream("127.0.0.1", port)
        gate.set()
        assert await receive_ids(busy, 1) == [1]
        await closed(busy)
    assert listener.statistics().open == 0


async def test_stop_before_serve(nursery):
    listener = make()
    listener.bind()
    listener.stop()
    with trio.fail_after(60):
        await listener.serve()


async def test_cancelling_serve_closes_everything_at_once():
    listener = make()
    listener.bind()
    budget = listener._memory.budget
    async with trio.open_nursery() as nursery:
        await nursery.start(listener.serve)
        client = await connect(listener)
        await client.send_all(heartbeat(1)[:5])
        while listener.statistics().bytes_in < 5:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    await closed(client)
    assert listener.statistics().open == 0
    assert budget.used == 0


async def test_what_the_dispatcher_lets_out_leaves_serve():
    dispatcher = ScriptedDispatcher()
    dispatcher.errors[1] = AssertionError("invariant")
    listener = make(dispatcher=dispatcher)
    listener.bind()
    client = await connect(listener)
    await client.send_all(heartbeat(1))
    with pytest.raises(ExceptionGroup) as caught:
        await listener.serve()
    assert caught.value.subgroup(AssertionError) is not None
    await client.aclose()


# --- Streams that are not sockets ---------------------------------------------------------------


async def test_a_simulated_connection_is_served_and_counted(nursery):
    listener = make(admission=Admission(per_ip_max=1))
    client, server = trio.testing.memory_stream_pair()
    nursery.start_soon(listener.serve_stream, server, "10.1.1.1", 77)
    await client.send_all(heartbeat(1))
    assert await receive_ids(client, 1) == [1]
    assert listener.statistics().open == 1
    other, far = trio.testing.memory_stream_pair()
    await listener.serve_stream(far, "10.1.1.1")
    with pytest.raises((trio.BrokenResourceError, EOFError)):
        await receive_exactly(other, 1)
    assert listener.statistics().refused == 1


# --- File descriptors -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("soft", "hard", "raised"),
    [
        (1024, 4096, 4096),
        (1024, 1 << 30, FD_LIMIT_MAX),
        (1024, resource.RLIM_INFINITY, FD_LIMIT_MAX),
        (4096, 4096, None),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, None),
    ],
)
def test_the_limit_of_open_files_is_raised(monkeypatch, soft, hard, raised):
    calls = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda *args: calls.append(args))
    assert raise_fd_limit() == (soft if raised is None else raised)
    assert calls == ([] if raised is None else [(resource.RLIMIT_NOFILE, (raised, hard))])
