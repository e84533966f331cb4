"""Brokers that leave and come back in order, under load."""

from pathlib import Path

from chaos_settings import SETTINGS

from zkafka.testing.trial import trial


async def test_a_rolling_restart_under_load(tmp_path: Path) -> None:
    async with trial(tmp_path, config=SETTINGS) as (cluster, workload):
        for broker_id in cluster.brokers:
            await cluster.stop(broker_id)
            await workload.wait_acknowledged(50)
            await cluster.start(broker_id)
            await cluster.wait_until_whole()


async def test_a_stop_of_everything_and_a_start_of_everything(tmp_path: Path) -> None:
    async with trial(tmp_path, config=SETTINGS) as (cluster, workload):
        for broker_id in cluster.brokers:
            await cluster.stop(broker_id)
        for broker_id in reversed(cluster.brokers):
            await cluster.start(broker_id)
        await workload.wait_acknowledged(100)


async def test_a_kill_of_everything_at_once(tmp_path: Path) -> None:
    """Nothing was handed over or flushed in order; the page cache outlives its writers."""
    async with trial(tmp_path, config=SETTINGS) as (cluster, workload):
        for broker_id in cluster.brokers:
            await cluster.kill(broker_id)
        for broker_id in cluster.brokers:
            await cluster.start(broker_id)
        await workload.wait_acknowledged(100)
