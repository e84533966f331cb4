"""`zkafka topics`: list, describe, create, delete, add-partitions."""

from typing import Any

import click
from confluent_kafka import TopicCollection
from confluent_kafka.admin import ConfigResource, NewPartitions, NewTopic, ResourceType

from zkafka.cli import client
from zkafka.cli.output import as_json, console, fail, show, table


@click.group()
def topics() -> None:
    """Topics and their partitions."""


def _metadata(bootstrap: str) -> Any:
    """The cluster's metadata, of all topics."""
    admin = client.admin(bootstrap)
    return client.call(
        f"no metadata from {bootstrap}", lambda: admin.list_topics(timeout=client.TIMEOUT_S)
    )


@topics.command("list")
@client.bootstrap_option
@client.json_option
@click.option("--internal", is_flag=True, help="Also those of Kafka itself (__consumer_offsets).")
def list_(bootstrap: str, json_output: bool, internal: bool) -> None:
    """Every topic with its partition count, replication and health."""
    rows = []
    for name, topic in sorted(_metadata(bootstrap).topics.items()):
        if name.startswith("__") and not internal:
            continue
        partitions = topic.partitions.values()
        rows.append(
            {
                "topic": name,
                "partitions": len(partitions),
                "replicas": max((len(p.replicas) for p in partitions), default=0),
                "under_replicated": sum(len(p.isrs) < len(p.replicas) for p in partitions),
                "offline": sum(p.leader < 0 for p in partitions),
            }
        )
    columns = {
        "topic": "topic",
        "partitions": "partitions",
        "replicas": "replicas",
        "under_replicated": "under-replicated",
        "offline": "without leader",
    }
    show(json_output, "topics", columns, rows)


@topics.command()
@client.bootstrap_option
@client.json_option
@click.argument("topic")
def describe(bootstrap: str, json_output: bool, topic: str) -> None:
    """Leader, replicas and in-sync replicas of each partition of TOPIC, and its own settings."""
    admin = client.admin(bootstrap)
    described = client.settled(
        f"topic {topic}", admin.describe_topics(TopicCollection([topic]))[topic]
    )
    resource = ConfigResource(ResourceType.TOPIC, topic)
    entries = client.settled(
        f"settings of {topic}", next(iter(admin.describe_configs([resource]).values()))
    )
    overrides = {name: entry.value for name, entry in sorted(entries.items()) if entry.source == 1}
    rows = [
        {
            "partition": partition.id,
            "leader": partition.leader.id if partition.leader else None,
            "replicas": [node.id for node in partition.replicas],
            "isr": [node.id for node in partition.isr],
        }
        for partition in described.partitions
    ]
    if json_output:
        as_json(
            {
                "topic": topic,
                "topic_id": str(described.topic_id),
                "settings": overrides,
                "partitions": rows,
            }
        )
        return
    console.print(f"[bold]{topic}[/bold]  id {described.topic_id}")
    table(
        None,
        ["partition", "leader", "replicas", "in sync"],
        [
            [
                row["partition"],
                row["leader"],
                ",".join(map(str, row["replicas"])),
                ",".join(map(str, row["isr"])),
            ]
            for row in rows
        ],
    )
    for name, value in overrides.items():
        console.print(f"  {name} = {value}")


@topics.command()
@client.bootstrap_option
@click.argument("topic")
@click.option("-p", "--partitions", type=int, default=-1, help="Default: the broker's.")
@click.option("-r", "--replicas", type=int, default=-1, help="Default: the broker's.")
@click.option("-c", "--config", "configs", multiple=True, metavar="KEY=VALUE")
def create(
    bootstrap: str, topic: str, partitions: int, replicas: int, configs: tuple[str, ...]
) -> None:
    """Create TOPIC."""
    overrides = {}
    for pair in configs:
        key, equals, value = pair.partition("=")
        if not equals:
            fail(f"--config {pair}: write it as key=value")
        overrides[key] = value
    admin = client.admin(bootstrap)
    new = NewTopic(topic, partitions, replicas, config=overrides)
    client.settled(f"topic {topic}", admin.create_topics([new])[topic])
    console.print(f"created {topic}")


@topics.command()
@client.bootstrap_option
@click.argument("names", nargs=-1, required=True, metavar="TOPIC...")
def delete(bootstrap: str, names: tuple[str, ...]) -> None:
    """Delete topics and everything in them."""
    admin = client.admin(bootstrap)
    for name, future in admin.delete_topics(list(names)).items():
        client.settled(f"topic {name}", future)
        console.print(f"deleted {name}")


@topics.command("add-partitions")
@client.bootstrap_option
@click.argument("topic")
@click.argument("total", type=int)
def add_partitions(bootstrap: str, topic: str, total: int) -> None:
    """Grow TOPIC to TOTAL partitions. Keys will map to other partitions than before."""
    admin = client.admin(bootstrap)
    futures = admin.create_partitions([NewPartitions(topic, total)])
    client.settled(f"topic {topic}", futures[topic])
    console.print(f"{topic} has {total} partitions")
