"""A broker stays registered from one session to the next, and takes over from its killed self."""

import json
import stat
from types import SimpleNamespace

import pytest
import trio
from fake_zookeeper import FakeZooKeeper

from zkafka.clock import Clock
from zkafka.errors import StartupError
from zkafka.model import Endpoint
from zkafka.zk.operations import Create
from zkafka.zk.registration import Registration
from zkafka.zk.store import Store
from zkafka.zk.znodes import BrokerRegistration

OURS = BrokerRegistration(broker_id=1, endpoints=(Endpoint("PLAINTEXT", "h", 9092),))
WALL_MS = 1_700_000_000_123


@pytest.fixture
async def world(tmp_path):
    server = FakeZooKeeper()
    session = server.session()
    store = Store(session, retry_ms=1000)
    await store.create_base_paths()
    cluster_id = await store.cluster_id(create=True)
    path = tmp_path / "session.json"
    registration = make(store, session, path, cluster_id)
    return SimpleNamespace(
        server=server,
        session=session,
        store=store,
        path=path,
        cluster_id=cluster_id,
        registration=registration,
    )


def make(store, session, path, cluster_id):
    clock = Clock(wall=lambda: WALL_MS / 1000)
    return Registration(store, session, OURS, cluster_id=cluster_id, session_path=path, clock=clock)


async def settle():
    await trio.testing.wait_all_tasks_blocked()


def leave_behind(world, *, save=True):
    """What a killed run leaves: its session, its registration, its office, and its file."""
    former = world.server.session()
    registered = b'{"version":1,"host":"h","port":9092,"timestamp":"1"}'
    world.server.multi(
        [
            Create("/brokers/ids/1", registered, ephemeral=True),
            Create("/controller", b"{}", ephemeral=True),
        ],
        former.session_id,
    )
    if save:
        world.path.write_text(json.dumps(saved(former)))
    return former


def saved(session):
    return {"session_id": f"{session.session_id:x}", "password": session.password.hex()}


async def test_a_broker_registers_and_keeps_its_session_secret(world, nursery):
    assert world.registration.broker_epoch == -1
    await nursery.start(world.registration.run)
    assert world.registration.broker_epoch == world.server.stat("/brokers/ids/1").czxid
    body = json.loads(world.server.nodes["/brokers/ids/1"].data)
    assert body["timestamp"] == str(WALL_MS)
    saved = json.loads(world.path.read_text())
    assert int(saved["session_id"], 16) == world.session.session_id
    assert bytes.fromhex(saved["password"]) == world.session.password
    assert stat.S_IMODE(world.path.stat().st_mode) == 0o600


async def test_a_new_session_is_a_new_registration(world, nursery):
    await nursery.start(world.registration.run)
    first = world.registration.broker_epoch
    world.session.expire()
    assert world.registration.broker_epoch == -1, "at once, before any hint is read"
    world.session.reconnect()
    assert world.registration.broker_epoch == -1, "connected is not registered"
    await settle()
    assert world.registration.broker_epoch > first
    assert world.server.stat("/brokers/ids/1").ephemeral_owner == world.session.session_id
    saved = json.loads(world.path.read_text())
    assert int(saved["session_id"], 16) == world.session.session_id


async def test_a_suspension_keeps_the_registration(world, nursery):
    await nursery.start(world.registration.run)
    epoch = world.registration.broker_epoch
    world.session.suspend()
    assert world.registration.broker_epoch == epoch
    world.session.reconnect()
    await settle()
    assert world.registration.broker_epoch == epoch


async def test_a_session_that_goes_again_while_registering_is_waited_for(world, nursery):
    await nursery.start(world.registration.run)
    first = world.registration.broker_epoch
    world.session.expire()
    world.session.reconnect()
    world.session.expire()
    await settle()
    assert world.registration.broker_epoch == -1
    world.session.reconnect()
    await settle()
    assert world.registration.broker_epoch > first


@pytest.mark.parametrize(
    ("rival", "named"),
    [
        (
            BrokerRegistration(broker_id=1, endpoints=(Endpoint("PLAINTEXT", "elsewhere", 1),)),
            "broker id 1 is registered by PLAINTEXT://elsewhere:1 in session",
        ),
        (
            BrokerRegistration(broker_id=2, endpoints=OURS.endpoints),
            "h:9092 is advertised by broker 2 already",
        ),
    ],
    ids=["id", "address"],
)
async def test_what_is_taken_while_the_session_was_lost_ends_the_broker(world, rival, named):
    async def lose_it_to_a_rival(*, task_status):
        world.session.expire()
        await Store(world.server.session()).register_broker(rival)
        world.session.reconnect()
        task_status.started()

    async def both():
        async with trio.open_nursery() as nursery:
            await nursery.start(world.registration.run)
            await nursery.start(lose_it_to_a_rival)

    with pytest.raises(ExceptionGroup) as ended:
        await both()
    [error] = ended.value.exceptions
    assert isinstance(error, StartupError)
    assert named in str(error)


@pytest.mark.parametrize("held", [None, "another"], ids=["wiped", "another cluster's"])
async def test_a_zookeeper_that_is_not_our_clusters_any_more_ends_the_broker(world, held):
    """Whatever the address answers now, over our data no other cluster is begun."""

    async def lose_the_cluster(*, task_status):
        world.session.expire()
        if held is None:
            world.server.nodes.pop("/cluster/id")
        else:
            world.server.nodes["/cluster/id"].data = b'{"version":"1","id":"another"}'
        world.session.reconnect()
        task_status.started()

    async def both():
        async with trio.open_nursery() as nursery:
            await nursery.start(world.registration.run)
            await nursery.start(lose_the_cluster)

    with pytest.raises(ExceptionGroup) as ended:
        await both()
    [error] = ended.value.exceptions
    assert isinstance(error, StartupError)
    assert "refusing to go on there over old data" in str(error)
    assert "/brokers/ids/1" not in world.server.nodes


async def test_a_killed_runs_session_is_closed_at_once(world, nursery, autojump_clock):
    former = leave_behind(world)
    with trio.fail_after(0.5):
        await nursery.start(world.registration.run)
    assert former.session_id not in world.server.sessions
    assert "/controller" not in world.server.nodes
    assert world.registration.broker_epoch == world.server.stat("/brokers/ids/1").czxid


async def test_a_start_that_was_killed_before_it_registered_does_not_hide_the_run_before(
    world, nursery, monkeypatch, autojump_clock
):
    """Killed, started, killed again at once, started: the id is held by the first run."""
    former = leave_behind(world)
    second = world.server.session()
    killed = make(Store(second), second, world.path, world.cluster_id)

    async def hang(*_):
        await trio.sleep_forever()

    monkeypatch.setattr(second, "resume_and_close", hang)
    async with trio.open_nursery() as its_life:
        its_life.start_soon(killed.run)
        await settle()
        its_life.cancel_scope.cancel()
    kept = json.loads(world.path.read_text())
    assert kept == saved(second) | {"former": [saved(former)]}

    with trio.fail_after(0.5):
        await nursery.start(world.registration.run)
    assert former.session_id not in world.server.sessions
    assert json.loads(world.path.read_text()) == saved(world.session)


async def test_many_starts_killed_at_once_do_not_fill_the_disk(world, nursery):
    *former, newest = [world.server.session() for _ in range(40)]
    world.path.write_text(
        json.dumps(saved(newest) | {"former": [saved(session) for session in former]})
    )
    seen = []
    register = world.store.register_broker

    async def look_and_register(*args, **kwargs):
        seen.append(len(json.loads(world.path.read_text())["former"]))
        return await register(*args, **kwargs)

    world.store.register_broker = look_and_register
    await nursery.start(world.registration.run)
    assert seen == [15]


async def test_another_holder_of_the_id_stops_the_start(world):
    rival = leave_behind(world, save=False)
    named = rf"broker id 1 is registered by PLAINTEXT://h:9092 in session 0x{rival.session_id:x}"
    with pytest.raises(StartupError, match=named):
        await world.registration.run()
    assert rival.session_id in world.server.sessions


async def test_a_session_that_is_not_the_saved_one_is_left_alone(world):
    mine = world.server.session()
    rival = leave_behind(world, save=False)
    world.path.write_text(json.dumps(saved(mine)))
    with pytest.raises(StartupError, match="broker id 1"):
        await world.registration.run()
    assert {rival.session_id, mine.session_id} <= set(world.server.sessions)


async def test_an_expired_session_of_ours_is_waited_for(world, nursery, autojump_clock):
    former = leave_behind(world)
    world.path.write_text(
        json.dumps({"session_id": f"{former.session_id:x}", "password": "00" * 16})
    )

    async def expire_later():
        await trio.sleep(3)
        world.server.end_session(former.session_id)

    nursery.start_soon(expire_later)
    await nursery.start(world.registration.run)
    assert 3 <= trio.current_time() < 3.5


async def test_waiting_for_a_former_session_ends(world, autojump_clock):
    former = leave_behind(world)
    world.path.write_text(
        json.dumps({"session_id": f"{former.session_id:x}", "password": "00" * 16})
    )
    with pytest.raises(StartupError, match="broker id 1"):
        await world.registration.run()
    assert trio.current_time() > world.session.timeout_ms / 1000


async def test_an_address_of_another_broker_stops_the_start(world):
    twin = BrokerRegistration(broker_id=2, endpoints=OURS.endpoints)
    await Store(world.server.session()).register_broker(twin)
    with pytest.raises(StartupError, match="h:9092 is advertised by broker 2"):
        await world.registration.run()


@pytest.mark.parametrize(
    "text", ["", "not JSON", "{}", '{"session_id":"zz","password":""}', "[]", '{"former":1}']
)
async def test_a_spoilt_session_file_is_reported_and_ignored(world, nursery, caplog, text):
    world.path.write_text(text)
    await nursery.start(world.registration.run)
    assert world.registration.broker_epoch > 0
    assert "cannot read a former session" in caplog.text


async def test_a_session_that_cannot_be_kept_is_reported(world, nursery, caplog):
    beside = world.path.parent / "missing" / "session.json"
    registration = make(world.store, world.session, beside, world.cluster_id)
    await nursery.start(registration.run)
    assert registration.broker_epoch > 0
    assert "cannot keep the session" in caplog.text
