"""`zkafka groups`: list, describe, delete, reset-offsets."""

from typing import Any

import click
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, TopicCollection
from confluent_kafka import TopicPartition as ClientPartition
from confluent_kafka import admin as kafka_admin
from confluent_kafka.admin import AdminClient

from zkafka.cli import client
from zkafka.cli.output import as_json, console, fail, show, table

OffsetSpec: Any = kafka_admin.OffsetSpec  # its stubs leave its methods untyped


@click.group()
def groups() -> None:
    """Consumer groups and where they have got to."""


@groups.command("list")
@client.bootstrap_option
@client.json_option
def list_(bootstrap: str, json_output: bool) -> None:
    """Every consumer group and its state."""
    admin = client.admin(bootstrap)
    listing = client.settled(f"no answer from {bootstrap}", admin.list_consumer_groups())
    rows = [
        {"group": group.group_id, "state": group.state.name if group.state else None}
        for group in sorted(listing.valid, key=lambda group: str(group.group_id))
    ]
    for error in listing.errors:
        console.print(f"[red]a coordinator did not answer: {error}[/red]")
    show(json_output, "groups", {"group": "group", "state": "state"}, rows)


def _committed(admin: AdminClient, group: str) -> list[Any]:
    asked = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])
    found = client.settled(f"offsets of {group}", asked[group])
    return sorted(found.topic_partitions, key=lambda p: (p.topic, p.partition))


def _ends(admin: AdminClient, partitions: list[Any]) -> dict[tuple[str, int], int]:
    asked = admin.list_offsets(
        {ClientPartition(p.topic, p.partition): OffsetSpec.latest() for p in partitions}
    )
    return {
        (where.topic, where.partition): client.settled("log end offsets", future).offset
        for where, future in asked.items()
    }


@groups.command()
@client.bootstrap_option
@client.json_option
@click.argument("group")
def describe(bootstrap: str, json_output: bool, group: str) -> None:
    """Members of GROUP, what each reads, and how far behind it is."""
    admin = client.admin(bootstrap)
    described = client.settled(f"group {group}", admin.describe_consumer_groups([group])[group])
    committed = _committed(admin, group)
    ends = _ends(admin, committed)
    owners = {
        (p.topic, p.partition): member
        for member in described.members
        for p in (member.assignment.topic_partitions if member.assignment else [])
    }
    rows = []
    for partition in committed:
        where = (partition.topic, partition.partition)
        owner = owners.get(where)
        rows.append(
            {
                "partition": f"{partition.topic}-{partition.partition}",
                "committed": partition.offset,
                "end": ends[where],
                "lag": ends[where] - partition.offset,
                "member": owner.member_id if owner else None,
                "client": f"{owner.client_id} {owner.host}" if owner else None,
            }
        )
    state = described.state.name if described.state else "UNKNOWN"
    if json_output:
        as_json(
            {
                "group": group,
                "state": state,
                "assignor": described.partition_assignor,
                "coordinator": described.coordinator.id if described.coordinator else None,
                "members": [member.member_id for member in described.members],
                "partitions": rows,
            }
        )
        return
    console.print(
        f"[bold]{group}[/bold]  {state}, {_members(len(described.members))}, "
        f"coordinator {described.coordinator.id if described.coordinator else '-'}"
    )
    if rows:
        table(
            None,
            ["partition", "committed", "end", "lag", "member", "client"],
            [list(row.values()) for row in rows],
        )


def _members(count: int) -> str:
    return "1 member" if count == 1 else f"{count} members"


@groups.command()
@client.bootstrap_option
@click.argument("names", nargs=-1, required=True, metavar="GROUP...")
def delete(bootstrap: str, names: tuple[str, ...]) -> None:
    """Delete groups that have no members, with their offsets."""
    admin = client.admin(bootstrap)
    for name, future in admin.delete_consumer_groups(list(names)).items():
        client.settled(f"group {name}", future)
        console.print(f"deleted {name}")


@groups.command("reset-offsets")
@client.bootstrap_option
@client.json_option
@click.argument("group")
@click.argument("topic")
@click.option(
    "--to",
    required=True,
    metavar="WHERE",
    help="earliest, latest, an offset, or a time as milliseconds: @1700000000000.",
)
@click.option("-p", "--partition", "only", type=int, multiple=True, help="Default: all.")
@click.option("--dry-run", is_flag=True, help="Show what would be committed.")
def reset_offsets(
    bootstrap: str,
    json_output: bool,
    group: str,
    topic: str,
    to: str,
    only: tuple[int, ...],
    dry_run: bool,
) -> None:
    """Commit other offsets of TOPIC for GROUP, which must have no members."""
    admin = client.admin(bootstrap)
    # Not by list_topics, which would have a broker create the topic.
    described = client.settled(
        f"topic {topic}", admin.describe_topics(TopicCollection([topic]))[topic]
    )
    wanted = sorted(only or (partition.id for partition in described.partitions))
    targets = _resolve(admin, topic, wanted, to)
    if not dry_run:
        _commit(bootstrap, group, targets)
    rows = [{"partition": f"{topic}-{p.partition}", "offset": p.offset} for p in targets]
    title = f"{group} {'would read' if dry_run else 'will read'} from"
    show(json_output, title, {"partition": "partition", "offset": "offset"}, rows)


def _resolve(admin: AdminClient, topic: str, partitions: list[int], to: str) -> list[Any]:
    """The partitions with the offsets that `to` means; past the end of time means the end."""
    if to.isdigit():
        return [ClientPartition(topic, p, int(to)) for p in partitions]
    if to == "earliest":
        spec = OffsetSpec.earliest()
    elif to == "latest":
        spec = OffsetSpec.latest()
    elif to.startswith("@") and to[1:].isdigit():
        spec = OffsetSpec.for_timestamp(int(to[1:]))
    else:
        fail(f"--to {to}: earliest, latest, an offset, or @milliseconds")
    asked = admin.list_offsets({ClientPartition(topic, p): spec for p in partitions})
    found = [
        ClientPartition(topic, p.partition, client.settled("offsets", future).offset)
        for p, future in asked.items()
    ]
    ends = _ends(admin, [p for p in found if p.offset < 0])
    return sorted(
        (
            p if p.offset >= 0 else ClientPartition(topic, p.partition, ends[topic, p.partition])
            for p in found
        ),
        key=lambda p: int(p.partition),
    )


def _commit(bootstrap: str, group: str, targets: list[Any]) -> None:
    """Commit from outside the group; the coordinator refuses while it has members."""
    consumer = Consumer(
        client.settings(bootstrap, **{"group.id": group, "enable.auto.commit": False})
    )
    try:
        results = client.call(
            f"group {group}", lambda: consumer.commit(offsets=targets, asynchronous=False)
        )
    finally:
        consumer.close()
    for result in results or []:
        if result.error is not None:
            fail(f"{result.topic}-{result.partition}: {result.error.str()}")
