"""`zkafka cluster describe`: who is here, who is controller, what is unhealthy."""

import click

from zkafka.cli import client
from zkafka.cli.output import as_json, console, table


@click.group()
def cluster() -> None:
    """The cluster as a whole."""


@cluster.command()
@client.bootstrap_option
@client.json_option
def describe(bootstrap: str, json_output: bool) -> None:
    """Cluster id, brokers, controller, leaderships, and partitions that want attention."""
    admin = client.admin(bootstrap)
    described = client.settled(f"no answer from {bootstrap}", admin.describe_cluster())
    metadata = client.call("metadata", lambda: admin.list_topics(timeout=client.TIMEOUT_S))
    partitions = [
        (name, partition)
        for name, topic in sorted(metadata.topics.items())
        for _, partition in sorted(topic.partitions.items())
    ]
    controller = described.controller.id if described.controller else None
    brokers = [
        {
            "broker": node.id,
            "address": f"{node.host}:{node.port}",
            "rack": node.rack,
            "controller": node.id == controller,
            "leads": sum(p.leader == node.id for _, p in partitions),
            "replicas": sum(node.id in p.replicas for _, p in partitions),
        }
        for node in sorted(described.nodes, key=lambda node: int(node.id))
    ]
    unhealthy = [
        {
            "partition": f"{name}-{p.id}",
            "leader": p.leader if p.leader >= 0 else None,
            "replicas": p.replicas,
            "isr": p.isrs,
        }
        for name, p in partitions
        if len(p.isrs) < len(p.replicas) or p.leader < 0
    ]
    if json_output:
        as_json(
            {
                "cluster_id": described.cluster_id,
                "controller": controller,
                "brokers": brokers,
                "partitions": len(partitions),
                "unhealthy": unhealthy,
            }
        )
        return
    console.print(f"cluster [bold]{described.cluster_id}[/bold], {len(partitions)} partitions")
    table(
        None,
        ["broker", "address", "rack", "controller", "leads", "replicas"],
        [
            [
                b["broker"],
                b["address"],
                b["rack"],
                "yes" * b["controller"],
                b["leads"],
                b["replicas"],
            ]
            for b in brokers
        ],
    )
    if unhealthy:
        table(
            "partitions that want attention",
            ["partition", "leader", "replicas", "in sync"],
            [[u["partition"], u["leader"], _ids(u["replicas"]), _ids(u["isr"])] for u in unhealthy],
        )
    else:
        console.print("every replica is in sync")


def _ids(ids: object) -> str:
    assert isinstance(ids, list)
    return ",".join(map(str, ids))
