"""`zkafka znodes`: the tree under a path, decoded: what each node means, who wrote it, its version.

Reads ZooKeeper and nothing else, so it works while every broker is down, and on a Kafka 3.9 cluster
as on ours. What it cannot decode it shows as it is.
"""

import datetime
import re
from collections.abc import Callable

import attrs
import click
import rich.tree
import trio
from rich.markup import escape

from zkafka.cli import client
from zkafka.cli.output import as_json, console, fail
from zkafka.clock import Clock
from zkafka.errors import CoordinationError, NoNode
from zkafka.model import PartitionState, TopicPartition
from zkafka.zk import znodes as nodes
from zkafka.zk.session import Session, open_session

DEFAULT_ZOOKEEPER = "127.0.0.1:2181"
TIMEOUT_MS = 10_000

SIBLINGS_SHOWN = 12
"""Of more children only the first ones are drawn, unless it is their parent that was asked for:
fifty partitions of __consumer_offsets would hide the rest of the tree."""


@attrs.frozen
class Node:
    """One znode as it was read, with its children below it."""

    path: str
    data: bytes
    version: int
    ephemeral_owner: int
    modified_ms: int
    children: tuple["Node", ...]


@click.command("znodes")
@click.option(
    "-z",
    "--zookeeper",
    envvar="ZOOKEEPER_CONNECT",
    default=DEFAULT_ZOOKEEPER,
    show_default=True,
    help="host:port,host:port/chroot.",
)
@client.json_option
@click.argument("path", default="/")
def znodes(zookeeper: str, json_output: bool, path: str) -> None:
    """The znodes under PATH: who wrote each, what it means, its version."""
    path = "/" + path.strip("/")
    try:
        root = trio.run(_read, zookeeper, path)
    except* CoordinationError as group:
        fail(f"{zookeeper}: {group.exceptions[0]}")
    if root is None:
        fail(f"no node {path} at {zookeeper}")
    if json_output:
        as_json(_as_dict(root))
    else:
        console.print(_draw(root))


async def _read(zookeeper: str, path: str) -> Node | None:
    """The tree under `path`, None if there is no such node. Errors: `CoordinationError`, grouped.

    The chroot is a part of the path here, so that looking at one that is not there makes none.
    """
    hosts, _, chroot = zookeeper.partition("/")
    top = f"/{chroot.strip('/')}".rstrip("/")
    async with open_session(hosts, TIMEOUT_MS, Clock()) as session:
        try:
            return await _node(session, top, path)
        except NoNode:
            return None


async def _node(session: Session, top: str, path: str) -> Node:
    full = (top + path).rstrip("/") or "/"
    data, stat = await session.get(full)
    children = []
    for child in sorted(await session.children(full), key=_natural):
        below = f"{path.rstrip('/')}/{child}"
        if below != "/zookeeper":
            children.append(await _node(session, top, below))
    return Node(path, data, stat.version, stat.ephemeral_owner, stat.mtime_ms, tuple(children))


def _natural(name: str) -> tuple[int, int, str]:
    """Numbers in their order, before names."""
    return (0, int(name), "") if name.isdigit() else (1, 0, name)


def _as_dict(node: Node) -> dict[str, object]:
    return {
        "path": node.path,
        "data": node.data.decode("utf-8", "backslashreplace"),
        "meaning": meaning(node.path, node.data, node.version),
        "written_by": written_by(node.path),
        "version": node.version,
        "ephemeral_owner": f"0x{node.ephemeral_owner:x}" if node.ephemeral_owner else None,
        "modified": _time(node.modified_ms),
        "children": [_as_dict(child) for child in node.children],
    }


def _draw(node: Node) -> rich.tree.Tree:
    tree = rich.tree.Tree(_label(node, node.path))
    _grow(tree, node)
    return tree


def _grow(tree: rich.tree.Tree, node: Node, *, shown: int | None = None) -> None:
    """The children below `node`; one that says nothing itself and has one child shares its line."""
    for child in node.children[:shown]:
        end = child
        while len(end.children) == 1 and not meaning(end.path, end.data, end.version):
            [end] = end.children
        name = end.path.removeprefix(node.path).lstrip("/")
        _grow(tree.add(_label(end, name)), end, shown=SIBLINGS_SHOWN)
    rest = 0 if shown is None else len(node.children) - shown
    if rest > 0:
        tree.add(f"[dim]and {rest} more: zkafka znodes {escape(node.path)}[/dim]")


def _label(node: Node, name: str) -> str:
    """`name  meaning  (by whom, version, since when)`; a node that only has children: its name."""
    said = meaning(node.path, node.data, node.version)
    if not said:
        return f"[bold]{escape(name)}[/bold]"
    facts = [written_by(node.path), f"version {node.version}", _time(node.modified_ms)]
    if node.ephemeral_owner:
        facts.append(f"session 0x{node.ephemeral_owner:x}")
    noted = ", ".join(fact for fact in facts if fact)
    return f"[bold]{escape(name)}[/bold]  {escape(said)}  [dim]({escape(noted)})[/dim]"


def _time(ms: int) -> str:
    when = datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC)
    return when.strftime("%Y-%m-%d %H:%M:%S UTC")


# ------------------------------------------------------------------------------------- meaning

_WRITERS: tuple[tuple[str, str], ...] = (
    (r"/brokers/ids/\d+", "by the broker itself"),
    (r"/brokers/topics/[^/]+", "by whoever created it, then the controller"),
    (r"/brokers/topics/[^/]+/partitions/.*", "by the controller"),
    (r"/brokers/seqid", "by brokers without an id"),
    (r"/controller(_epoch)?", "by the winner of the election"),
    (r"/cluster/id", "by the first broker"),
    (r"/config/.+", "by the broker that took the change"),
    (r"/admin/delete_topics/.+", "by the broker that was asked"),
    (r"/admin/.+", "by a tool"),
    (r"/log_dir_event_notification/.+", "by the broker that lost a directory"),
    (r"/isr_change_notification/.+", "by a leader"),
    (r"/latest_producer_id_block", "by the controller"),
    (r"/feature", "by the controller"),
)


def written_by(path: str) -> str:
    """Who writes the node at `path`; empty where nobody in particular does."""
    for pattern, who in _WRITERS:
        if re.fullmatch(pattern, path):
            return who
    return ""


def meaning(path: str, data: bytes, version: int) -> str:
    """What the node says, in words; empty where it has no data and its name says nothing more."""
    for pattern, read in _MEANINGS:
        if match := re.fullmatch(pattern, path):
            try:
                return read(match, data, version)
            except CoordinationError:
                break
    return data.decode("utf-8", "backslashreplace")


def _broker(match: re.Match[str], data: bytes, _version: int) -> str:
    registration = nodes.decode_broker(int(match[1]), data)
    where = ", ".join(str(endpoint) for endpoint in registration.endpoints)
    rack = f", rack {registration.rack}" if registration.rack else ""
    return f"alive at {where}{rack}"


def _topic(match: re.Match[str], data: bytes, _version: int) -> str:
    topic = nodes.decode_topic(match[1], data)
    count = len(topic.assignments)
    replicas = max((len(a.replicas) for a in topic.assignments.values()), default=0)
    named = f"id {nodes.encode_uuid(topic.topic_id)}" if topic.topic_id else "without an id"
    moving = sum(bool(a.adding or a.removing) for a in topic.assignments.values())
    moved = f", {moving} being reassigned" if moving else ""
    return f"{named}, partitions {count}, replicas {replicas}{moved}"


def _state(match: re.Match[str], data: bytes, version: int) -> str:
    tp = TopicPartition(match[1], int(match[2]))
    state: PartitionState = nodes.decode_partition_state(tp, data, version)
    leader = f"leader {state.leader}" if state.leader >= 0 else "no leader"
    recovering = ", recovering from an unclean election" if state.recovering else ""
    isr = ",".join(map(str, state.isr))
    return (
        f"{leader}, leader epoch {state.leader_epoch}, in sync {isr}, "
        f"controller epoch {state.controller_epoch}{recovering}"
    )


def _config(match: re.Match[str], data: bytes, _version: int) -> str:
    overrides = nodes.decode_config(match[0], data)
    return ", ".join(f"{key}={value}" for key, value in sorted(overrides.items())) or "no overrides"


def _config_change(match: re.Match[str], data: bytes, _version: int) -> str:
    change = nodes.decode_config_change(match[1], data)
    return f"{change.kind}/{change.name} changed" if change else data.decode("utf-8", "replace")


def _producer_ids(_match: re.Match[str], data: bytes, _version: int) -> str:
    block = nodes.decode_producer_id_block(data)
    return f"{block.first} to {block.last} for broker {block.broker_id}" if block else "none yet"


_MEANINGS: tuple[tuple[str, Callable[[re.Match[str], bytes, int], str]], ...] = (
    (r"/brokers/ids/(\d+)", _broker),
    (r"/brokers/topics/([^/]+)", _topic),
    (r"/brokers/topics/([^/]+)/partitions/(\d+)/state", _state),
    (r"/brokers/seqid", lambda _m, _d, version: f"{version} ids given out"),
    (r"/controller", lambda _m, data, _v: f"broker {nodes.decode_controller(data)} is controller"),
    (
        r"/controller_epoch",
        lambda _m, data, _v: f"controller epoch {nodes.decode_controller_epoch(data)}",
    ),
    (r"/cluster/id", lambda _m, data, _v: f"cluster {nodes.decode_cluster_id(data)}"),
    (r"/config/changes/(.+)", _config_change),
    (r"/config/(topics|brokers|clients|users|ips)/(.+)", _config),
    (r"/admin/delete_topics/(.+)", lambda _m, _d, _v: "to be deleted"),
    (
        r"/admin/preferred_replica_election",
        lambda m, data, _v: (
            "elect the preferred leaders of "
            + ", ".join(map(str, sorted(nodes.decode_partitions(m[0], data))))
        ),
    ),
    (
        r"/log_dir_event_notification/(.+)",
        lambda m, data, _v: f"broker {nodes.decode_log_dir_event(m[1], data)} lost a directory",
    ),
    (r"/latest_producer_id_block", _producer_ids),
)
