"""What a session promises, asked of the fake and of a real ZooKeeper alike.

Whatever passes here over `fake_zookeeper` can be believed in the tests that use it.
"""

import itertools
from contextlib import asynccontextmanager

import pytest
import trio
from fake_zookeeper import FakeZooKeeper

from zkafka.clock import Clock
from zkafka.errors import CoordinationError, NodeExists, NoNode, StaleVersion
from zkafka.zk.operations import (
    Check,
    Create,
    Delete,
    Hint,
    HintKind,
    MultiFailed,
    NotEmpty,
    SessionState,
    Set,
)

CHROOTS = itertools.count()


@asynccontextmanager
async def real_sessions(zookeeper):
    from zkafka.zk.session import Session

    hosts = f"{zookeeper.connect}/contract/{next(CHROOTS)}"
    async with trio.open_nursery() as nursery:

        async def open_one():
            session = Session(hosts, 60_000, Clock())
            await nursery.start(session.run)
            return session

        yield open_one
        nursery.cancel_scope.cancel()


@pytest.fixture(params=["fake", pytest.param("zookeeper", marks=pytest.mark.integration)])
async def connect(request):
    """Opens sessions with one and the same, empty, ZooKeeper."""
    if request.param == "fake":
        server = FakeZooKeeper()

        async def open_fake():
            return server.session()

        yield open_fake
    else:
        async with real_sessions(request.getfixturevalue("zookeeper")) as open_one:
            yield open_one


async def next_hint(hints):
    with trio.fail_after(60):
        return await hints.receive()


async def test_a_node_is_created_read_replaced_and_deleted(connect):
    session = await connect()
    assert await session.create("/a", b"one") == "/a"
    data, stat = await session.get("/a")
    assert (data, stat.version, stat.ephemeral_owner, stat.data_length) == (b"one", 0, 0, 3)
    assert (await session.set("/a", b"two", 0)).version == 1
    assert (await session.get("/a"))[0] == b"two"
    await session.delete("/a", 1)
    assert await session.exists("/a") is None


async def test_a_node_without_data_reads_as_empty(connect):
    session = await connect()
    await session.create("/a")
    assert (await session.get("/a"))[0] == b""


async def test_each_refusal_has_its_own_error(connect):
    session = await connect()
    await session.create("/a")
    await session.create("/a/b")
    with pytest.raises(NodeExists, match="/a"):
        await session.create("/a")
    with pytest.raises(NoNode, match="/x/y"):
        await session.create("/x/y")
    for call in (session.get, session.children, session.delete):
        with pytest.raises(NoNode, match="/x"):
            await call("/x")
    with pytest.raises(NoNode):
        await session.set("/x", b"")
    with pytest.raises(StaleVersion):
        await session.set("/a", b"", 7)
    with pytest.raises(StaleVersion):
        await session.delete("/a/b", 7)
    with pytest.raises(NotEmpty):
        await session.delete("/a")


async def test_children_are_names_in_order(connect):
    session = await connect()
    await session.create("/p")
    for name in "cab":
        await session.create(f"/p/{name}")
    assert await session.children("/p") == ["a", "b", "c"]
    assert (await session.exists("/p")).children_count == 3


async def test_sequential_nodes_count_up_in_ten_digits(connect):
    session = await connect()
    await session.create("/p")
    first = await session.create("/p/n_", sequential=True)
    second = await session.create("/p/n_", sequential=True)
    assert first.startswith("/p/n_")
    assert len(first) == len("/p/n_") + 10
    assert first < second


async def test_a_transaction_answers_each_operation(connect):
    session = await connect()
    await session.create("/epoch", b"1")
    check, created, stat, deleted = await session.multi(
        [Check("/epoch", 0), Create("/a", b"x"), Set("/epoch", b"2", 0), Delete("/a")]
    )
    assert (check, created, stat.version, deleted) == (True, "/a", 1, True)


async def test_a_transaction_is_all_or_nothing_and_names_the_culprit(connect):
    session = await connect()
    await session.create("/epoch")
    with pytest.raises(MultiFailed) as refused:
        await session.multi([Create("/a"), Check("/epoch", 5), Create("/b")])
    assert refused.value.index == 1
    assert refused.value.operation == Check("/epoch", 5)
    assert isinstance(refused.value.error, StaleVersion)
    assert await session.children("/") == ["epoch"]
    with pytest.raises(MultiFailed) as refused:
        await session.multi([Check("/epoch", 0), Create("/epoch")])
    assert refused.value.index == 1
    assert isinstance(refused.value.error, NodeExists)
    with pytest.raises(MultiFailed) as refused:
        await session.multi([Set("/missing", b"")])
    assert isinstance(refused.value.error, NoNode)


async def test_nodes_of_one_transaction_share_their_creation_id(connect):
    session = await connect()
    _, stat = await session.multi([Create("/a", ephemeral=True), Set("/a", b"x", 0)])
    assert (stat.version, stat.ephemeral_owner) == (1, session.session_id)
    later = await session.create("/b")
    assert (await session.exists(later)).czxid > stat.czxid


async def test_a_data_watch_fires_once(connect):
    session = await connect()
    await session.create("/a")
    hints = session.subscribe()
    await session.get("/a", watch=True)
    await session.set("/a", b"1")
    await session.set("/a", b"2")
    assert await next_hint(hints) == Hint(HintKind.DATA, "/a")
    await session.get("/a", watch=True)
    await session.delete("/a")
    assert await next_hint(hints) == Hint(HintKind.DELETED, "/a")


async def test_an_exists_watch_notices_creation(connect):
    session = await connect()
    hints = session.subscribe()
    assert await session.exists("/a", watch=True) is None
    await session.create("/a")
    assert await next_hint(hints) == Hint(HintKind.CREATED, "/a")


async def test_a_child_watch_notices_who_comes_and_goes(connect):
    session, other = await connect(), await connect()
    await session.create("/p")
    hints = session.subscribe()
    for change in (other.create, other.delete):
        await session.children("/p", watch=True)
        await change("/p/a")
        assert await next_hint(hints) == Hint(HintKind.CHILDREN, "/p")


async def test_reading_twice_with_a_watch_leaves_one_watch(connect):
    session = await connect()
    await session.create("/a")
    hints = session.subscribe()
    await session.get("/a", watch=True)
    await session.get("/a", watch=True)
    await session.set("/a", b"1")
    assert await next_hint(hints) == Hint(HintKind.DATA, "/a")
    await session.create("/marker")
    await session.exists("/marker", watch=True)
    await session.delete("/marker")
    assert await next_hint(hints) == Hint(HintKind.DELETED, "/marker")


async def test_every_subscriber_gets_every_hint(connect):
    session = await connect()
    first, second = session.subscribe(), session.subscribe()
    await session.exists("/a", watch=True)
    await session.create("/a")
    assert await next_hint(first) == await next_hint(second) == Hint(HintKind.CREATED, "/a")


async def test_a_closed_former_session_takes_its_ephemerals_along(connect):
    session, former = await connect(), await connect()
    await former.create("/me", ephemeral=True)
    hints = session.subscribe()
    await session.exists("/me", watch=True)
    assert await session.resume_and_close(former.session_id, former.password)
    assert await session.exists("/me") is None
    assert await next_hint(hints) == Hint(HintKind.DELETED, "/me")
    assert not await session.resume_and_close(former.session_id, former.password)


async def test_a_session_is_not_resumed_without_its_password(connect):
    session, former = await connect(), await connect()
    await former.create("/me", ephemeral=True)
    assert not await session.resume_and_close(former.session_id, b"\1" * 16)
    assert (await session.exists("/me")).ephemeral_owner == former.session_id


async def test_what_zookeeper_would_hang_up_on_is_refused_before_sending(connect):
    session = await connect()
    with pytest.raises(CoordinationError, match="/big"):
        await session.create("/big", b"x" * 1_000_000)
    half = b"x" * 600_000
    await session.create("/a", half)
    with pytest.raises(CoordinationError, match="more than ZooKeeper takes"):
        await session.multi([Set("/a", half), Create("/b", half)])
    assert session.state is SessionState.CONNECTED
    assert await session.exists("/b") is None
