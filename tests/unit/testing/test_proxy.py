"""The proxy between parties, with an echo server behind it.

Sockets of this process only, and nothing waits for real time to pass.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing

from zkafka.testing.proxy import Network, Proxy

SOURCES = {"127.0.0.11": 1, "127.0.0.12": 2}


async def _echo(stream: trio.SocketStream) -> None:
    try:
        async for data in stream:
            await stream.send_all(data)
    except trio.BrokenResourceError:
        pass  # the proxy resets us in most of these tests


@asynccontextmanager
async def proxied_echo() -> AsyncIterator[tuple[Network, Proxy]]:
    """An echo server known as broker 3, behind its proxy."""
    network = Network()
    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, _echo, 0, host="127.0.0.1"))
        target = ("127.0.0.1", listener.socket.getsockname()[1])
        proxy = await Proxy.open(network, 3, target, lambda host: SOURCES.get(host, "clients"))
        await nursery.start(proxy.run)
        yield network, proxy
        nursery.cancel_scope.cancel()


async def connect(proxy: Proxy, source: str = "127.0.0.1") -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", proxy.port, local_address=source)


async def ping(stream: trio.SocketStream, payload: bytes = b"ping") -> bytes:
    await stream.send_all(payload)
    return bytes(await stream.receive_some(100))


async def test_bytes_pass_both_ways_and_the_end_of_stream_too() -> None:
    async with proxied_echo() as (_, proxy), await connect(proxy) as stream:
        assert await ping(stream) == b"ping"
        await stream.send_eof()
        assert await stream.receive_some(1) == b""


async def test_a_cut_resets_what_is_open_and_what_is_new() -> None:
    async with proxied_echo() as (network, proxy), await connect(proxy) as stream:
        assert await ping(stream) == b"ping"
        network.cut("clients", 3)
        with pytest.raises(trio.BrokenResourceError, match=r"reset|socket connection broken"):
            await stream.receive_some(1)
        with pytest.raises(trio.BrokenResourceError):
            async with await connect(proxy) as another:
                await another.receive_some(1)


async def test_a_cut_parts_only_the_two_that_were_named() -> None:
    async with (
        proxied_echo() as (network, proxy),
        await connect(proxy, "127.0.0.11") as first,
        await connect(proxy, "127.0.0.12") as second,
    ):
        assert await ping(first) == await ping(second) == b"ping"
        network.cut(3, 1)
        with pytest.raises(trio.BrokenResourceError):
            await first.receive_some(1)
        assert await ping(second) == b"ping"


async def test_a_black_hole_keeps_the_bytes_and_healing_delivers_them() -> None:
    async with proxied_echo() as (network, proxy), await connect(proxy) as stream:
        assert await ping(stream) == b"ping"
        network.black_hole("clients", 3)
        await stream.send_all(b"into the dark")
        await trio.testing.wait_all_tasks_blocked(0.02)
        with trio.move_on_after(0) as impatient:
            await stream.receive_some(1)
        assert impatient.cancelled_caught
        network.heal()
        assert await stream.receive_some(100) == b"into the dark"
        assert not network.broken()


async def test_a_new_connection_into_a_black_hole_is_silent_until_it_is_healed() -> None:
    async with proxied_echo() as (network, proxy):
        network.black_hole("clients", 3)
        async with await connect(proxy) as stream:
            await stream.send_all(b"hello?")
            while network.link("clients", 3).connection_count == 0:
                await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert network.link("clients", 3).connection_count == 1
            network.heal("clients", 3)
            assert await stream.receive_some(100) == b"hello?"


async def test_a_silent_link_can_still_be_cut() -> None:
    async with proxied_echo() as (network, proxy), await connect(proxy) as stream:
        assert await ping(stream) == b"ping"
        network.black_hole("clients", 3)
        network.cut("clients", 3)
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some(1)


async def test_healing_one_party_opens_its_links_and_no_others() -> None:
    network = Network()
    network.cut(1, 2)
    network.black_hole(2, "zookeeper")
    network.cut(1, 3)
    network.heal(2)
    assert set(network.broken()) == {frozenset((1, 3))}


async def test_a_target_that_does_not_listen_resets_the_connection() -> None:
    network = Network()
    [unused] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    target = ("127.0.0.1", unused.socket.getsockname()[1])
    await unused.aclose()
    proxy = await Proxy.open(network, 3, target, lambda host: "clients")
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        async with await connect(proxy) as stream:
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some(1)
        nursery.cancel_scope.cancel()


async def test_a_reset_by_the_target_reaches_the_client_as_a_reset() -> None:
    """A killed process with unread bytes resets; the client must see that, not an orderly end."""
    accepted: list[trio.SocketStream] = []

    async def keep(stream: trio.SocketStream) -> None:
        accepted.append(stream)
        await trio.sleep_forever()

    network = Network()
    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, keep, 0, host="127.0.0.1"))
        target = ("127.0.0.1", listener.socket.getsockname()[1])
        proxy = await Proxy.open(network, 3, target, lambda host: "clients")
        await nursery.start(proxy.run)
        async with await connect(proxy) as stream:
            await stream.send_all(b"unread")
            while not accepted:
                await trio.lowlevel.checkpoint()
            await trio.lowlevel.wait_readable(accepted[0].socket)
            accepted[0].socket.close()  # with bytes unread: the kernel sends a reset
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some(1)
        nursery.cancel_scope.cancel()


async def test_refusing_looks_as_if_nobody_listened_and_ends() -> None:
    async with proxied_echo() as (_, proxy):
        port = proxy.port
        async with await connect(proxy) as stream:
            assert await ping(stream) == b"ping"
            proxy.refuse()
            with pytest.raises(trio.BrokenResourceError, match=r"reset|socket connection broken"):
                await ping(stream)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(2):
            with pytest.raises(OSError, match="all attempts to connect") as refused:
                await connect(proxy)
            assert isinstance(refused.value.__cause__, BaseExceptionGroup)
            assert refused.value.__cause__.split(ConnectionRefusedError)[1] is None
        proxy.accept()
        await trio.testing.wait_all_tasks_blocked()
        assert proxy.port == port
        async with await connect(proxy) as stream:
            assert await ping(stream) == b"ping"


async def test_it_accepts_again_when_somebody_listens_behind_it() -> None:
    async with proxied_echo() as (_, proxy):
        for _ in range(2):
            proxy.refuse()
            await trio.testing.wait_all_tasks_blocked()
        await proxy.accept_with_target()
        await trio.testing.wait_all_tasks_blocked()
        async with await connect(proxy) as stream:
            assert await ping(stream) == b"ping"
