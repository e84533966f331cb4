"""Apache Kafka's own command line tools, beyond the console ones, do their job on our cluster.

Each sentence that is looked for is what the tool prints beside Apache Kafka 3.9. A JVM takes a
second to start, so a test says with few calls what it can.
"""

import contextlib
import json
import re
import subprocess
import threading
from collections.abc import Generator
from pathlib import Path

import apache_kafka
import pytest
from confluent_kafka import Producer

from zkafka.testing.blocking import BlockingCluster

TOOLS = "org.apache.kafka.tools"
CONFIGS = "kafka.admin.ConfigCommand"
DELETE_RECORDS = f"{TOOLS}.DeleteRecordsCommand"
ELECTION = f"{TOOLS}.LeaderElectionCommand"
GROUPS = f"{TOOLS}.consumer.group.ConsumerGroupCommand"
LOG_DIRS = f"{TOOLS}.LogDirsCommand"
OFFSETS = f"{TOOLS}.GetOffsetShell"
TOPICS = f"{TOOLS}.TopicCommand"
TRANSACTIONS = f"{TOOLS}.TransactionsCommand"

pytestmark = pytest.mark.usefixtures("kafka_jars")


def run(cluster: BlockingCluster, name: str, *arguments: str) -> str:
    """What a tool prints of this cluster."""
    return apache_kafka.tool(name, "--bootstrap-server", cluster.bootstrap, *arguments)


def events(printed: str) -> dict[str, list[dict[str, object]]]:
    """What a verifiable client said, by the name of the event."""
    by_name: dict[str, list[dict[str, object]]] = {}
    for line in printed.splitlines():
        event = json.loads(line)
        by_name.setdefault(event["name"], []).append(event)
    return by_name


def table(printed: str) -> list[list[str]]:
    """The words of each line that has any."""
    return [line.split() for line in printed.splitlines() if line.split()]


def produce(cluster: BlockingCluster, topic: str, count: int) -> str:
    """Have the verifiable producer write the numbers below `count`."""
    options = ["--topic", topic, "--max-messages", str(count), "--acks", "-1"]
    return run(cluster, f"{TOOLS}.VerifiableProducer", *options)


def consume(cluster: BlockingCluster, topic: str, group: str, count: int) -> str:
    """Have the verifiable consumer read and commit `count` records."""
    options = ["--topic", topic, "--group-id", group, "--max-messages", str(count)]
    return run(
        cluster, f"{TOOLS}.VerifiableConsumer", *options, "--reset-policy", "earliest", "--verbose"
    )


def test_a_topic_from_its_creation_to_its_end(three_brokers: BlockingCluster) -> None:
    placed = ["--replica-assignment", "1:2,2:3", "--config", "retention.ms=100000"]
    run(three_brokers, TOPICS, "--create", "--topic", "jt-life", *placed)
    run(three_brokers, TOPICS, "--alter", "--topic", "jt-life", "--partitions", "3")
    described = run(three_brokers, TOPICS, "--describe", "--topic", "jt-life")
    run(three_brokers, TOPICS, "--delete", "--topic", "jt-life")
    listed = run(three_brokers, TOPICS, "--list")

    head, *partitions = described.splitlines()
    assert "PartitionCount: 3\tReplicationFactor: 2" in head
    assert "retention.ms=100000" in head
    assert re.search(r"Partition: 0\tLeader: 1\tReplicas: 1,2\tIsr: 1,2", partitions[0])
    assert re.search(r"Partition: 1\tLeader: 2\tReplicas: 2,3\tIsr: 2,3", partitions[1])
    assert "Partition: 2" in partitions[2]
    assert "jt-life" not in listed.split()


def test_verifiable_clients_and_every_group_command(three_brokers: BlockingCluster) -> None:
    topic, group = "jt-verifiable", "jt-verifiable-group"
    three_brokers.create_topic(topic, partitions=1, replication_factor=3)
    produced = events(produce(three_brokers, topic, 200))
    consumed = events(consume(three_brokers, topic, group, 200))
    on_group = ["--group", group]
    states = run(three_brokers, GROUPS, "--list", "--state")
    of_topic = [*on_group, "--topic", topic]
    reset = [*of_topic, "--to-offset", "50", "--execute"]
    moved = run(three_brokers, GROUPS, "--reset-offsets", *reset)
    described = run(three_brokers, GROUPS, "--describe", *on_group)
    forgotten = run(three_brokers, GROUPS, "--delete-offsets", *of_topic)
    deleted = run(three_brokers, GROUPS, "--delete", *on_group)

    [summary] = produced["tool_data"]
    assert (summary["sent"], summary["acked"]) == (200, 200)
    sent = [event["value"] for event in produced["producer_send_success"]]
    assert sorted(sent, key=int) == [str(i) for i in range(200)]
    assert [event["value"] for event in consumed["record_data"]] == sent
    assert consumed["offsets_committed"][-1] == consumed["offsets_committed"][-1] | {
        "offsets": [{"topic": topic, "partition": 0, "offset": 200}],
        "success": True,
    }
    assert [group, "Empty"] in table(states)
    assert moved.split()[-4:] == [group, topic, "0", "50"]
    assert [group, topic, "0", "50", "200", "150", "-", "-", "-"] in table(described)
    assert forgotten.split()[-3:] == [topic, "0", "Successful"]
    assert f"Deletion of requested consumer groups ('{group}') was successful." in deleted


def test_performance_tools_measure_what_they_sent(three_brokers: BlockingCluster) -> None:
    three_brokers.create_topic("jt-perf", partitions=3, replication_factor=3)
    load = ["--num-records", "20000", "--record-size", "500", "--throughput", "-1"]
    client = ["--producer-props", f"bootstrap.servers={three_brokers.bootstrap}", "acks=all"]
    sent = apache_kafka.tool(f"{TOOLS}.ProducerPerformance", "--topic", "jt-perf", *load, *client)
    options = ["--topic", "jt-perf", "--messages", "20000", "--timeout", "120000"]
    read = run(three_brokers, f"{TOOLS}.ConsumerPerformance", *options)
    there_and_back = apache_kafka.tool(
        f"{TOOLS}.EndToEndLatency", three_brokers.bootstrap, "jt-latency", "50", "all", "100"
    )

    assert "20000 records sent" in sent.splitlines()[-1]
    assert read.splitlines()[-1].split(", ")[4] == "20000"
    assert re.search(r"^Avg latency: [\d.]+ ms$", there_and_back, re.MULTILINE)


def test_offsets_by_position_and_time_and_records_deleted(
    three_brokers: BlockingCluster, tmp_path: Path
) -> None:
    topic = "jt-offsets"
    three_brokers.create_topic(topic, partitions=1, replication_factor=3)
    produce(three_brokers, topic, 30)
    latest = run(three_brokers, OFFSETS, "--topic", topic)
    since_ever = run(three_brokers, OFFSETS, "--topic", topic, "--time", "1")
    places = [{"topic": topic, "partition": 0, "offset": 12}]
    plan = tmp_path / "delete.json"
    plan.write_text(json.dumps({"version": 1, "partitions": places}))
    deleted = run(three_brokers, DELETE_RECORDS, "--offset-json-file", str(plan))
    earliest = run(three_brokers, OFFSETS, "--topic", topic, "--time", "earliest")

    assert latest.split() == [f"{topic}:0:30"]
    assert since_ever.split() == [f"{topic}:0:0"]
    assert f"partition: {topic}-0\tlow_watermark: 12" in deleted
    assert earliest.split() == [f"{topic}:0:12"]


def test_configurations_of_topics_and_of_all_brokers(three_brokers: BlockingCluster) -> None:
    topic = "jt-configs"
    three_brokers.create_topic(topic, partitions=1, replication_factor=1)
    of_topic = ["--entity-type", "topics", "--entity-name", topic]
    change = ["--alter", "--add-config", "cleanup.policy=[delete,compact],max.message.bytes=70000"]
    run(three_brokers, CONFIGS, *of_topic, *change)
    run(three_brokers, CONFIGS, *of_topic, "--alter", "--delete-config", "max.message.bytes")
    described = run(three_brokers, CONFIGS, *of_topic, "--describe")
    of_broker = ["--entity-type", "brokers", "--entity-name", "2"]
    change = ["--alter", "--add-config", "log.segment.bytes=500000000"]
    run(three_brokers, CONFIGS, *of_broker, *change)
    dynamic = run(three_brokers, CONFIGS, *of_broker, "--describe")
    run(three_brokers, CONFIGS, *of_broker, "--alter", "--delete-config", "log.segment.bytes")
    of_all = ["--entity-type", "brokers", "--entity-default"]
    change = ["--alter", "--add-config", "log.cleaner.threads=2"]
    run(three_brokers, CONFIGS, *of_all, *change)
    defaults = run(three_brokers, CONFIGS, *of_all, "--describe")
    run(three_brokers, CONFIGS, *of_all, "--alter", "--delete-config", "log.cleaner.threads")

    assert re.findall(r"^  (\S+)", described, re.MULTILINE) == ["cleanup.policy=delete,compact"]
    assert "DYNAMIC_TOPIC_CONFIG:cleanup.policy=delete,compact" in described
    assert "DYNAMIC_BROKER_CONFIG:log.segment.bytes=500000000" in dynamic
    assert "DYNAMIC_DEFAULT_BROKER_CONFIG:log.cleaner.threads=2" in defaults


def test_what_the_brokers_offer_and_where_they_keep_it(three_brokers: BlockingCluster) -> None:
    three_brokers.create_topic("jt-dirs", assignments=[[2, 3], [3, 1]])
    offered = run(three_brokers, "kafka.admin.BrokerApiVersionsCommand")
    kept = run(three_brokers, LOG_DIRS, "--describe", "--topic-list", "jt-dirs")

    assert offered.count("Fetch(1): 4 to 17 [usable: 17]") == 3
    partitions = {
        broker["broker"]: sorted(p["partition"] for d in broker["logDirs"] for p in d["partitions"])
        for broker in json.loads(kept.splitlines()[-1])["brokers"]
    }
    assert partitions == {1: ["jt-dirs-1"], 2: ["jt-dirs-0"], 3: ["jt-dirs-0", "jt-dirs-1"]}


def test_a_partitions_producers_are_known_to_each_replica(three_brokers: BlockingCluster) -> None:
    three_brokers.create_topic("jt-producers", assignments=[[2, 3]])
    producer = Producer({"bootstrap.servers": three_brokers.bootstrap, "enable.idempotence": True})
    for _ in range(20):
        producer.produce("jt-producers", b"value")
    assert producer.flush(60) == 0
    partition = ["--topic", "jt-producers", "--partition", "0"]
    led = run(three_brokers, TRANSACTIONS, "describe-producers", *partition)
    followed = run(
        three_brokers, TRANSACTIONS, "describe-producers", *partition, "--broker-id", "3"
    )
    hangs = ["abort", *partition, "--start-offset", "0"]
    nothing = subprocess.run(
        apache_kafka.command(TRANSACTIONS, "--bootstrap-server", three_brokers.bootstrap, *hangs),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    [head, [producer_id, *state]] = table(led)
    assert head[0] == "ProducerId"
    assert int(producer_id) >= 0
    assert state == ["0", "-1", "19", state[3], "None"], "epochs, sequence, time, transaction"
    assert table(followed) == table(led)
    assert nothing.returncode != 0
    assert "Could not find any open transactions starting at offset 0" in nothing.stderr


def verdicts(cluster: BlockingCluster, topics: str) -> Generator[str, None, None]:
    """What the verification tool says of the replicas of some topics, four minutes long at most."""
    options = ["--topics-include", topics, "--report-interval-ms", "200", "--time", "-2"]
    name = f"{TOOLS}.ReplicaVerificationTool"
    command = apache_kafka.command(name, "--broker-list", cluster.bootstrap, *options)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as tool:
        assert tool.stdout is not None
        enough = threading.Timer(240, tool.kill)
        enough.start()
        try:
            yield from tool.stdout
        finally:
            enough.cancel()
            tool.kill()


def test_replicas_hold_the_same_bytes(three_brokers: BlockingCluster) -> None:
    three_brokers.create_topic("jt-replicas", partitions=1, replication_factor=3)
    produce(three_brokers, "jt-replicas", 500)

    said: list[str] = []
    with contextlib.closing(verdicts(three_brokers, "jt-replicas")) as told:
        for line in told:
            said.append(line)
            if "at offset 500 among 1 partitions" in line:
                break

    assert "max lag is 0 for partition jt-replicas-0 at offset 500 among 1 partitions" in said[-1]
    assert not any("doesn't match" in line or "unmatched checksum" in line for line in said)


@pytest.mark.zkafka(brokers=3, config={"auto.leader.rebalance.enable": "false"})
def test_a_broker_that_is_gone_is_seen_and_leads_again_when_asked(
    zkafka_cluster: BlockingCluster,
) -> None:
    zkafka_cluster.create_topic("jt-led", assignments=[[3, 1, 2], [2, 3, 1]])
    zkafka_cluster.stop(3)
    short = run(zkafka_cluster, TOPICS, "--describe", "--under-replicated-partitions")
    zkafka_cluster.start(3)
    zkafka_cluster.wait_until_whole(topics=["jt-led"])
    elect = ["--election-type", "preferred", "--topic", "jt-led", "--partition"]
    elected = run(zkafka_cluster, ELECTION, *elect, "0")
    content = run(zkafka_cluster, ELECTION, *elect, "1")
    whole = run(zkafka_cluster, TOPICS, "--describe", "--under-replicated-partitions")

    assert re.search(r"jt-led\tPartition: 0\tLeader: 1\tReplicas: 3,1,2\tIsr: 1,2\t", short)
    assert re.search(r"jt-led\tPartition: 1\tLeader: 2\tReplicas: 2,3,1\tIsr: 2,1\t", short)
    assert "Successfully completed leader election (PREFERRED) for partitions jt-led-0" in elected
    assert "Valid replica already elected for partitions jt-led-1" in content
    assert zkafka_cluster.leader("jt-led", 0) == 3
    assert whole.strip() == ""
