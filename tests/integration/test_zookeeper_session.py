"""The session's life with a real ZooKeeper: suspended, resumed, expired, given up.

Each test stands its own proxy before ZooKeeper, and breaks that.
"""

import functools
import os
import signal
import subprocess
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from zkafka.clock import Clock
from zkafka.errors import CoordinationError, NoNode, SessionLost, SessionSuspended
from zkafka.testing.proxy import Network, Proxy
from zkafka.testing.zookeeper import ZooKeeper
from zkafka.zk.operations import HintKind, SessionState
from zkafka.zk.session import Session, open_session
from zkafka.zk.store import Store

TIMEOUT_MS = 4500
"""Where the session is to end; short enough to wait for, too long to end while a busy machine lets
nobody run for a moment."""
STILL_MS = 12_000
"""Where the loop stands still: kazoo gives a connection up when a third of this passes between a
heartbeat and its answer, and that is another story."""
LASTING_MS = 60_000
"""Where it is to stand."""


@asynccontextmanager
async def breakable(zookeeper, timeout_ms):
    """A session through a proxy: (session, network)."""
    network = Network()
    host, port = zookeeper.addresses[0]
    proxy = await Proxy.open(network, "zookeeper", (host, port), lambda _: 1)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        async with open_session(f"{proxy.address}/session", timeout_ms, Clock()) as session:
            yield session, network
        nursery.cancel_scope.cancel()


async def expect(hints, *kinds, within_s=60.0):
    """The next session hints, which must be of these kinds."""
    found = []
    with trio.fail_after(within_s):
        async for hint in hints:
            found.append(hint)
            if [h.kind for h in found] == list(kinds):
                return found
            assert [h.kind for h in found] == list(kinds)[: len(found)]
    raise AssertionError(found)


async def until(condition):
    """What nobody tells us of has to be asked for."""
    with trio.fail_after(60):
        while not await condition():  # noqa: ASYNC110
            await trio.sleep(0.02)


async def gone(session, path):
    return await session.exists(path) is None


async def test_the_chroot_is_made_where_it_is_missing(zookeeper):
    async with open_session(f"{zookeeper.connect}/deep/down", LASTING_MS, Clock()) as session:
        assert await session.children("/") == []
        await session.create("/here")
    async with open_session(zookeeper.connect, LASTING_MS, Clock()) as outside:
        assert await outside.children("/deep/down") == ["here"]


async def test_no_zookeeper_is_an_error_that_names_the_hosts():
    session = Session("127.0.0.1:1", TIMEOUT_MS, Clock(), connection_timeout_ms=300)
    with pytest.raises(CoordinationError, match=r"127\.0\.0\.1:1 within 300 ms"):
        await session.run()


async def test_a_connection_that_nobody_answers_is_given_up_for_another(zookeeper):
    """What a ZooKeeper 3.8 that is just starting does to those who come too early."""
    came = []

    async def serve(stream):
        came.append(stream)
        if len(came) == 1:
            await trio.sleep_forever()
        behind = await trio.open_tcp_stream(*zookeeper.addresses[0])
        async with behind, trio.open_nursery() as nursery:
            nursery.start_soon(copy, behind, stream)
            await copy(stream, behind)
            nursery.cancel_scope.cancel()

    async def copy(source, sink):
        async for chunk in source:
            await sink.send_all(chunk)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(
            functools.partial(trio.serve_tcp, serve, 0, host="127.0.0.1")
        )
        port = listeners[0].socket.getsockname()[1]
        async with open_session(f"127.0.0.1:{port}", TIMEOUT_MS, Clock()) as session:
            assert session.state is SessionState.CONNECTED
            assert len(came) == 2
        nursery.cancel_scope.cancel()


async def test_the_granted_timeout_is_learnt(zookeeper):
    async with open_session(zookeeper.connect, 1_000_000, Clock()) as session:

        async def learnt():
            return session.timeout_ms != 1_000_000

        await until(learnt)
        # The server grants no more than its maxSessionTimeout.
        assert session.timeout_ms == 120_000


async def test_closing_a_session_removes_its_ephemerals_at_once(zookeeper):
    async with open_session(zookeeper.connect, LASTING_MS, Clock()) as other:
        async with open_session(zookeeper.connect, LASTING_MS, Clock()) as session:
            await session.create("/mine", ephemeral=True)
        assert await other.exists("/mine") is None


async def test_a_short_loss_of_the_connection_suspends_and_resumes(zookeeper):
    async with breakable(zookeeper, LASTING_MS) as (session, network):
        await session.create("/resumed", ephemeral=True)
        before = session.session_id
        hints = session.subscribe()
        network.cut(1, "zookeeper")
        await expect(hints, HintKind.SUSPENDED)
        assert session.state is SessionState.SUSPENDED
        with pytest.raises(SessionSuspended):
            await session.get("/resumed")
        network.heal()
        [resumed] = await expect(hints, HintKind.CONNECTED)
        assert resumed.session_id == session.session_id == before
        assert (await session.exists("/resumed")).ephemeral_owner == before


async def test_a_write_in_flight_when_the_connection_goes_is_unknown(zookeeper):
    async with breakable(zookeeper, LASTING_MS) as (session, network):
        hints = session.subscribe()
        network.black_hole(1, "zookeeper")
        async with trio.open_nursery() as nursery:
            outcome = []

            async def write():
                try:
                    await session.create("/unknown")
                except SessionSuspended as error:
                    outcome.append(error)

            nursery.start_soon(write)
            await trio.testing.wait_all_tasks_blocked(0.05)
            network.cut(1, "zookeeper")
        assert len(outcome) == 1
        network.heal()
        await expect(hints, HintKind.SUSPENDED, HintKind.CONNECTED)


async def test_an_expired_session_is_followed_by_another(zookeeper):
    async with breakable(zookeeper, TIMEOUT_MS) as (session, network):
        await session.create("/expired", ephemeral=True)
        before, password = session.session_id, session.password
        hints = session.subscribe()
        network.cut(1, "zookeeper")
        async with open_session(f"{zookeeper.connect}/session", LASTING_MS, Clock()) as other:
            await until(lambda: gone(other, "/expired"))
        assert session.state is SessionState.SUSPENDED, "nobody can have told us"
        network.heal()
        _, _, again = await expect(hints, HintKind.SUSPENDED, HintKind.EXPIRED, HintKind.CONNECTED)
        assert again.session_id == session.session_id != before
        assert session.password != password
        assert await session.exists("/expired") is None
        assert session.statistics().expirations_total == 1


async def test_watches_of_a_lost_session_are_told_of_by_its_loss(zookeeper):
    """Nothing is published for them: whoever watches reads again on CONNECTED."""
    async with breakable(zookeeper, LASTING_MS) as (session, network):
        await session.exists("/watched", watch=True)
        hints = session.subscribe()
        network.cut(1, "zookeeper")
        await expect(hints, HintKind.SUSPENDED)
        network.heal()
        await expect(hints, HintKind.CONNECTED)
        await session.exists("/watched", watch=True)
        await session.create("/watched", ephemeral=True)
        [hint] = await expect(hints, HintKind.CREATED)
        assert hint.path == "/watched"


async def test_a_loop_that_stands_still_loses_its_session(zookeeper):
    async with open_session(zookeeper.connect, STILL_MS, Clock()) as session:
        await session.create("/still", ephemeral=True)
        before = session.session_id
        hints = session.subscribe()
        # Long enough for the watchdog, and not for ZooKeeper, which kazoo's thread keeps happy.
        time.sleep(STILL_MS / 1000 * 0.67 + 0.3)  # noqa: ASYNC251, the point of the test
        assert session.state is SessionState.LOST, "before any hint is read"
        with pytest.raises(SessionLost):
            await session.get("/still")
        _, again = await expect(hints, HintKind.EXPIRED, HintKind.CONNECTED)
        assert again.session_id != before
        assert session.state is SessionState.CONNECTED
        assert await session.exists("/still") is None
        assert session.statistics().given_up_total == 1
        with pytest.raises(NoNode):
            await session.get("/still")


async def test_a_loop_that_never_stands_still_keeps_its_session(zookeeper):
    """Often and long, but never for two thirds of the timeout, and more than that in all."""
    async with open_session(zookeeper.connect, STILL_MS, Clock()) as session:
        before = session.session_id
        for _ in range(8):
            time.sleep(STILL_MS / 1000 / 10)  # noqa: ASYNC251, the point of the test
            await trio.sleep(0.05)
        assert session.state is SessionState.CONNECTED
        assert session.session_id == before
        assert session.statistics().given_up_total == 0


STOPPED_PROCESS = """
import sys, trio
from zkafka.clock import Clock
from zkafka.zk.session import open_session
async def main():
    async with open_session(sys.argv[1], int(sys.argv[2]), Clock()) as session:
        await session.create("/stopped", ephemeral=True)
        hints = session.subscribe()
        state = session.state
        print("ready", flush=True)  # from here on it may be stopped at any moment
        while session.state is state:
            await trio.sleep(0.01)
        print("then", session.state.value, flush=True)
        async for hint in hints:
            print(hint.kind.value, flush=True)
            if hint.kind.value == "connected":
                return
trio.run(main)
"""


async def test_a_process_that_was_stopped_finds_its_session_lost(zookeeper):
    command = [sys.executable, "-c", STOPPED_PROCESS, zookeeper.connect, str(TIMEOUT_MS)]
    process = await trio.lowlevel.open_process(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        output = await process.stdout.receive_some()
        assert output.startswith(b"ready")
        os.kill(process.pid, signal.SIGSTOP)
        async with open_session(zookeeper.connect, LASTING_MS, Clock()) as other:
            await until(lambda: gone(other, "/stopped"))
        os.kill(process.pid, signal.SIGCONT)
        with trio.fail_after(60):
            async for chunk in process.stdout:
                output += chunk
    finally:
        process.kill()
        await process.wait()
    words = output.decode().split()
    assert words[:2] == ["ready", "then"]
    assert words[2] in ("lost", "suspended"), "never connected, from its first look"
    assert words[-2:] == ["expired", "connected"]


async def test_a_restarted_zookeeper_finds_us_again(tmp_path):
    async with AsyncExitStack() as stack:
        alone = await stack.enter_async_context(ZooKeeper.create(tmp_path))
        session = await stack.enter_async_context(open_session(alone.connect, LASTING_MS, Clock()))
        hints = session.subscribe()
        store = Store(session)
        await store.create_base_paths()
        await alone.stop_async()
        await expect(hints, HintKind.SUSPENDED)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(alone.start_async)
            # A read made meanwhile waits, and is answered.
            assert await store.topics() == set()
        await expect(hints, HintKind.CONNECTED)
