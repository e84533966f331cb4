"""The harness against the real thing: ZooKeeper, clusters in both modes, the fixtures."""

import os
import signal
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from zkafka.testing.blocking import BlockingCluster
from zkafka.testing.cluster import BrokerEnded, Cluster, ClusterError
from zkafka.testing.plugin import require_module, require_zookeeper
from zkafka.testing.processes import ProcessFailed, free_ports
from zkafka.testing.zookeeper import ZooKeeper, ask


@pytest.fixture(autouse=True)
def _tools() -> None:
    require_zookeeper()


# --- ZooKeeper


def test_a_standalone_zookeeper_keeps_its_data_until_it_is_wiped(tmp_path: Path) -> None:
    with ZooKeeper.create(tmp_path) as zookeeper:
        [server] = zookeeper.servers
        assert server.mode() == "standalone"
        assert ask(server.client_port, "ruok") == "imok"
        zookeeper.stop()
        assert server.mode() is None
        assert list(server.data_directory.glob("version-2/*"))
        zookeeper.start()
        zookeeper.stop()
        zookeeper.wipe()
        assert not server.data_directory.exists()
        zookeeper.start()
        assert server.mode() == "standalone"


def test_a_later_command_finds_a_zookeeper_that_runs(tmp_path: Path) -> None:
    [port] = free_ports(1)
    zookeeper = ZooKeeper.create(tmp_path, client_port=port).start(detached=True)
    again = ZooKeeper.create(tmp_path, client_port=port)
    assert again.servers[0].attach()
    assert again.servers[0].mode() == "standalone"
    again.stop()
    assert not zookeeper.servers[0].running


async def test_an_ensemble_elects_another_leader(tmp_path: Path) -> None:
    async with ZooKeeper.create(tmp_path, size=3) as zookeeper:
        first = await zookeeper.leader()
        await first.kill()
        second = await zookeeper.leader()
        assert second is not first
        await zookeeper.start_async()
        assert sorted([await server.mode_async() or "" for server in zookeeper.servers]) == [
            "follower",
            "follower",
            "leader",
        ]


def test_a_zookeeper_that_cannot_start_says_why(tmp_path: Path) -> None:
    with ZooKeeper.create(tmp_path / "first") as first:
        port = first.servers[0].client_port
        with pytest.raises(ProcessFailed, match=f"port {port} is taken"):
            ZooKeeper.create(tmp_path / "second", client_port=port).start()
    broken = ZooKeeper.create(tmp_path / "third")
    [server] = broken.servers
    server.data_directory.mkdir()
    (server.data_directory / "version-2").write_text("not a directory")
    with pytest.raises(ProcessFailed, match="ended while it should run"):
        broken.start()


# --- Clusters


async def test_a_cluster_in_the_loop_lives_through_everything_that_can_be_true_there(
    tmp_path: Path,
) -> None:
    async with Cluster(3, mode="in_loop", directory=tmp_path, racks=["a", "b", "c"]) as cluster:
        assert cluster.running == [1, 2, 3]
        assert {broker.pid for broker in cluster.brokers.values()} == {os.getpid()}
        await cluster.create_topic("t", assignments=[[1, 2, 3], [2, 3, 1]])
        assert (await cluster.leader("t", 0), await cluster.leader("t", 1)) == (1, 2)
        await cluster.restart(1)
        await cluster.expire_session(2)
        await cluster.kill(3)
        await cluster.start(3)
        await cluster.wait_until_whole()


async def test_brokers_share_a_zookeeper_that_outlives_them(
    tmp_path: Path, zookeeper: ZooKeeper
) -> None:
    for name in ("first", "second"):
        async with Cluster(
            1, mode="in_loop", zookeeper=zookeeper, chroot=f"/{name}", directory=tmp_path / name
        ) as cluster:
            await cluster.create_topic(name)
            answer = await cluster.metadata(1)
            assert [topic.name for topic in answer.topics] == [name]
    assert zookeeper.servers[0].running


async def test_a_broker_that_dies_unbidden_fails_the_test(tmp_path: Path) -> None:
    async def die() -> None:
        async with Cluster(1, directory=tmp_path) as cluster:
            os.kill(cluster.brokers[1].pid, signal.SIGKILL)
            await cluster.wait_until("the end of the world", _never)

    with pytest.raises(BrokerEnded, match="broker 1 ended with exit code -9"):
        await die()


async def test_a_broker_that_refuses_to_start_is_an_error_with_its_words(tmp_path: Path) -> None:
    async with Cluster(1, directory=tmp_path) as cluster:
        await cluster.stop(1)
        cluster.brokers[1].properties["broker.id"] = "7"
        with pytest.raises(BrokerEnded, match=r"broker.id=7, but log directory .* is broker 1's"):
            await cluster.start(1)
        cluster.brokers[1].properties["broker.id"] = "1"
        await cluster.start(1)


async def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    async with Cluster(1, mode="in_loop", directory=tmp_path) as cluster:
        with pytest.raises(ClusterError, match="no broker 2"):
            await cluster.kill(2)
        with pytest.raises(ClusterError, match="runs already"):
            await cluster.start(1)
        with pytest.raises(ClusterError, match="cannot be paused"):
            cluster.pause(1)
        with pytest.raises(ClusterError, match="nothing connects"):
            cluster.cut("clients", "zookeeper")
        await cluster.kill(1)
        with pytest.raises(ClusterError, match="does not run"):
            await cluster.stop(1)
    with pytest.raises(ClusterError, match="at least one broker"):
        Cluster(0)
    with pytest.raises(ClusterError, match="2 racks for 1 brokers"):
        Cluster(1, racks=["a", "b"])


async def test_a_test_that_fails_inside_a_cluster_shows_its_own_failure(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with Cluster(1, mode="in_loop", directory=tmp_path):
            raise ZeroDivisionError


async def test_a_paused_broker_says_nothing_and_comes_back(tmp_path: Path) -> None:
    async with Cluster(2, directory=tmp_path) as cluster:
        cluster.pause(2)
        assert cluster.running == [1]
        cluster.resume(2)
        await cluster.wait_until_whole()


# --- Without trio


@pytest.mark.zkafka(brokers=1, config={"num.partitions": "4"})
def test_the_fixture_for_tests_without_trio(zkafka_cluster: BlockingCluster) -> None:
    cluster = zkafka_cluster
    cluster.create_topic("t", partitions=2)
    assert cluster.leader("t", 1) == cluster.controller() == 1
    with urllib.request.urlopen(f"http://{cluster.brokers[1].admin_address}/readyz") as answer:
        assert answer.status == 200
    cluster.restart(1)
    with pytest.raises(ClusterError, match="no broker 7"):
        cluster.kill(7)
    cluster.kill(1)
    with pytest.raises(ClusterError, match="does not run"):
        cluster.pause(1)
    cluster.start(1)
    cluster.wait_until_whole()


def test_a_blocking_cluster_forwards_while_its_test_blocks(
    zkafka_clusters: Callable[..., BlockingCluster],
) -> None:
    confluent_kafka = require_module("confluent_kafka")
    cluster = zkafka_clusters(brokers=1)
    cluster.create_topic("t")
    producer = confluent_kafka.Producer({"bootstrap.servers": cluster.bootstrap})
    producer.produce("t", b"value")
    assert producer.flush(60) == 0
    cluster.wait_until_whole()
    assert [len(replica.records) for replica in cluster.replica_contents("t", 0)] == [1]


async def _never() -> bool:
    await trio.lowlevel.checkpoint()
    return False
