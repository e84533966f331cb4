"""The ZooKeeper beside the brokers stops, starts, loses its leader, and loses everything."""

import shutil
from pathlib import Path

import pytest
import trio
from chaos_settings import SESSION_SECONDS, SETTINGS
from kazoo.client import KazooClient

from zkafka.testing.cluster import BrokerEnded, Cluster
from zkafka.testing.trial import TOPIC, trial
from zkafka.testing.zookeeper import ZooKeeper, ask


async def test_writing_goes_on_while_zookeeper_is_down(tmp_path: Path) -> None:
    async with trial(tmp_path, config=SETTINGS) as (cluster, workload):
        await cluster.zookeeper.stop_async()
        await workload.wait_acknowledged(200)
        await trio.sleep(SESSION_SECONDS)  # the fault itself is a length of time
        await workload.wait_acknowledged(50)
        await cluster.zookeeper.start_async()
        # And the cluster can decide again.
        leader = await cluster.leader(TOPIC, 0)
        await cluster.kill(leader)
        await cluster.leader(TOPIC, 0, other_than=leader)
        await workload.wait_acknowledged(100)
        await cluster.start(leader)


async def test_a_zookeeper_asleep_past_all_sessions(tmp_path: Path) -> None:
    async with trial(tmp_path, config=SETTINGS) as (cluster, workload):
        cluster.zookeeper.pause()
        await trio.sleep(SESSION_SECONDS + 2)  # the fault itself is a length of time
        cluster.zookeeper.resume()
        await workload.wait_acknowledged(150)
        await cluster.wait_until_whole()


async def test_an_ensemble_that_loses_its_leader(tmp_path: Path) -> None:
    async with trial(tmp_path, config=SETTINGS, zookeepers=3) as (cluster, workload):
        first = await cluster.zookeeper.leader()
        await first.kill()
        second = await cluster.zookeeper.leader()
        assert second is not first
        leader = await cluster.leader(TOPIC, 0)
        await cluster.kill(leader)
        await cluster.leader(TOPIC, 0, other_than=leader)
        await workload.wait_acknowledged(150)
        await cluster.start(leader)
        await cluster.zookeeper.start_async()


def last_zxid(zookeeper: ZooKeeper) -> int:
    """The number of transactions a standalone server has had."""
    answer = ask(zookeeper.servers[0].client_port, "srvr")
    [line] = [line for line in answer.splitlines() if line.startswith("Zxid:")]
    return int(line.split()[1], 16)


def brokers_ids_after_transactions(zookeeper: ZooKeeper, zxid: int) -> list[str]:
    """Give an empty server transactions up to `zxid`; the brokers registered just before the end.

    Blocks the proxies meanwhile, so that the brokers come only when it is done.
    """
    client = KazooClient(zookeeper.connect)
    client.start(60)
    try:
        client.create("/other", b"")
        while last_zxid(zookeeper) < zxid:
            client.set("/other", b"")
        return client.get_children("/brokers/ids") if client.exists("/brokers/ids") else []
    finally:
        client.stop()
        client.close()


async def test_brokers_refuse_to_invent_a_new_cluster_over_old_data(tmp_path: Path) -> None:
    """ZooKeeper lost its disk. Whoever went on would rule over an empty cluster, and delete.

    An empty server turns away clients that have seen more transactions than it has; so the brokers
    that run are without a session, and register nowhere. Once it has had as many, they are let in,
    find another world, and stop, saying why. Brokers that start refuse. When ZooKeeper's data is
    back, so is everything.
    """
    async with Cluster(3, config=SETTINGS, directory=tmp_path) as cluster:
        await cluster.create_topic("kept", partitions=3)
        before = {p: cluster.replica_contents("kept", p) for p in range(3)}
        zookeeper = cluster.zookeeper
        seen = last_zxid(zookeeper)
        await zookeeper.stop_async()
        for server in zookeeper.servers:
            shutil.copytree(server.data_directory, tmp_path / f"backup-{server.server_id}")
        zookeeper.wipe()
        for broker in cluster.brokers.values():
            broker.should_run = False  # they are expected to end
        await zookeeper.start_async()
        assert brokers_ids_after_transactions(zookeeper, seen + 10) == []

        async def all_ended() -> bool:
            return not any(broker.running for broker in cluster.brokers.values())

        await cluster.wait_until("every broker has stopped by itself", all_ended)
        for broker in cluster.brokers.values():
            assert broker.run is not None
            assert broker.run.exit_code == 1
            assert "ZooKeeper now holds no cluster at all" in broker.log_text(), broker.ended()
        for broker_id in cluster.brokers:
            with pytest.raises(BrokerEnded, match="refusing to invent a new one over old data"):
                await cluster.start(broker_id)

        await zookeeper.stop_async()
        for server in zookeeper.servers:
            server.wipe()
            shutil.copytree(tmp_path / f"backup-{server.server_id}", server.data_directory)
        await zookeeper.start_async()
        async with trio.open_nursery() as nursery:
            for broker_id in cluster.brokers:
                nursery.start_soon(cluster.start, broker_id)
        await cluster.wait_until_whole(topics=["kept"])
        assert {p: len(cluster.replica_contents("kept", p)) for p in range(3)} == {
            p: len(contents) for p, contents in before.items()
        }
