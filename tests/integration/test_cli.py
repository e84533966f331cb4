"""`zkafka`: topics, groups, records and znodes of a cluster, for people and for programs.

Most commands run in this process, where they take no start: the whole path from the command line to
the brokers is the same. One test shows that they do as processes too.
"""

import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Consumer

from zkafka.cli import client, znodes
from zkafka.cli.main import main
from zkafka.testing.blocking import BlockingCluster
from zkafka.testing.processes import free_ports

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")


class Commands:
    """`zkafka ...` with a cluster in the environment, as an operator would set it."""

    def __init__(self, cluster: BlockingCluster) -> None:
        self.cluster = cluster
        self.environment = {
            "KAFKA_BOOTSTRAP_SERVERS": cluster.bootstrap,
            "ZOOKEEPER_CONNECT": cluster.cluster.zookeeper_connect,
        }

    def run(self, *arguments: str, stdin: str | None = None) -> Result:
        return CliRunner(env=self.environment).invoke(main, arguments, input=stdin)

    def says(self, *arguments: str, stdin: str | None = None) -> str:
        """What a command that must succeed prints."""
        done = self.run(*arguments, stdin=stdin)
        assert done.exit_code == 0, done.output
        return done.stdout

    def json(self, *arguments: str, stdin: str | None = None) -> Any:
        """What a command that must succeed tells a program."""
        return json.loads(self.says(*arguments, "--json", stdin=stdin))

    def lines(self, *arguments: str) -> list[Any]:
        """What it tells a program line by line."""
        return [json.loads(line) for line in self.says(*arguments, "--json").splitlines()]

    def creates(self, topic: str, *options: str) -> None:
        """Create a topic, and wait until every broker knows it: the command asks the controller,
        and the next one may ask another broker."""
        assert self.says("topics", "create", topic, *options) == f"created {topic}\n"
        self.cluster.wait_until_whole(topics=[topic])

    def refuses(self, *arguments: str, stdin: str | None = None) -> str:
        """The one sentence of a command that must fail."""
        done = self.run(*arguments, stdin=stdin)
        assert done.exit_code == 1, done.output
        assert isinstance(done.exception, SystemExit), done.exception
        [line] = done.stderr.splitlines()
        assert line.startswith("Error: ")
        return line.removeprefix("Error: ")


@pytest.fixture(scope="module")
def zkafka(three_brokers: BlockingCluster) -> Commands:
    return Commands(three_brokers)


@pytest.fixture
def topic(zkafka: Commands) -> str:
    """A topic of three partitions with ten records, of which the keys say the value."""
    name = f"cli-{uuid.uuid4().hex[:8]}"
    zkafka.creates(name, "-p", "3", "-r", "3")
    lines = "".join(f"k{n}:v{n}\n" for n in range(10))
    told = zkafka.json("produce", name, "-k", ":", stdin=lines)
    assert told == {"acknowledged": 10, "failed": 0, "unanswered": 0, "errors": []}
    return name


def eventually(holds: Callable[[], bool]) -> None:
    """Growth and deletions reach every broker a little after the one that was asked."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# --- Topics and the cluster -------------------------------------------------------------------


def test_a_topic_from_creation_to_deletion(zkafka: Commands) -> None:
    name = f"cli-{uuid.uuid4().hex[:8]}"
    zkafka.creates(name, "-p", "2", "-r", "3", "-c", "retention.ms=60000")
    described = zkafka.json("topics", "describe", name)
    assert described["topic"] == name
    assert described["settings"] == {"retention.ms": "60000"}
    assert [p["partition"] for p in described["partitions"]] == [0, 1]
    assert all(sorted(p["replicas"]) == [1, 2, 3] for p in described["partitions"])
    assert all(p["leader"] in p["isr"] for p in described["partitions"])

    assert zkafka.says("topics", "add-partitions", name, "4") == f"{name} has 4 partitions\n"
    eventually(lambda: len(zkafka.json("topics", "describe", name)["partitions"]) == 4)
    shown = zkafka.says("topics", "describe", name)
    assert described["topic_id"] in shown
    assert "retention.ms = 60000" in shown

    grown = {
        "topic": name,
        "partitions": 4,
        "replicas": 3,
        "under_replicated": 0,
        "offline": 0,
    }
    eventually(lambda: grown in zkafka.json("topics", "list"))
    assert name in zkafka.says("topics", "list")

    assert zkafka.says("topics", "delete", name) == f"deleted {name}\n"
    eventually(lambda: name not in zkafka.says("topics", "list"))


def test_internal_topics_are_shown_when_asked_for(zkafka: Commands, topic: str) -> None:
    zkafka.says("consume", topic, "-g", f"{topic}-group", "-n", "1")

    def names(*options: str) -> list[str]:
        return [row["topic"] for row in zkafka.json("topics", "list", *options)]

    zkafka.cluster.wait_until_whole(topics=["__consumer_offsets"])
    assert "__consumer_offsets" not in names()
    assert "__consumer_offsets" in names("--internal")


def test_the_cluster_is_described(zkafka: Commands, topic: str) -> None:
    zkafka.cluster.wait_until_whole()
    described = zkafka.json("cluster", "describe")

    assert [broker["broker"] for broker in described["brokers"]] == [1, 2, 3]
    assert described["controller"] in (1, 2, 3)
    assert described["unhealthy"] == []
    assert sum(broker["leads"] for broker in described["brokers"]) == described["partitions"] >= 3
    shown = zkafka.says("cluster", "describe")
    assert described["cluster_id"] in shown
    assert "every replica is in sync" in shown


# --- Records ----------------------------------------------------------------------------------


def test_records_are_read_as_they_were_written(zkafka: Commands, topic: str) -> None:
    records = zkafka.lines("consume", topic, "-e")

    assert sorted((r["key"], r["value"]) for r in records) == [
        (f"k{n}", f"v{n}") for n in range(10)
    ]
    assert {r["topic"] for r in records} == {topic}
    for partition in range(3):
        offsets = [r["offset"] for r in records if r["partition"] == partition]
        assert offsets == list(range(len(offsets)))
    said = zkafka.says("consume", topic, "-e", "-F", "{key}={value}")
    assert sorted(said.splitlines()) == [f"k{n}=v{n}" for n in range(10)]


def test_each_codec_writes(zkafka: Commands, topic: str) -> None:
    before = len(zkafka.lines("consume", topic, "-e", "-p", "0"))
    for codec in CODECS:
        zkafka.says("produce", topic, "-z", codec, "-p", "0", stdin=f"{codec} one\n{codec} two\n")

    said = zkafka.says("consume", topic, "-e", "-p", "0").splitlines()
    assert said[before:] == [f"{codec} {word}" for codec in CODECS for word in ("one", "two")]


def test_reading_begins_and_ends_where_asked(zkafka: Commands, topic: str) -> None:
    zkafka.says("produce", topic, "-p", "1", stdin="a\nb\nc\n")
    last = zkafka.lines("consume", topic, "-e", "-p", "1")[-1]["offset"]

    assert zkafka.says("consume", topic, "-p", "1", "-o", str(last - 1), "-e") == "b\nc\n"
    assert zkafka.says("consume", topic, "-p", "1", "-o", str(last - 2), "-n", "2") == "a\nb\n"
    assert zkafka.says("consume", topic, "-o", "latest", "-e") == ""


# --- Groups -----------------------------------------------------------------------------------


def test_a_group_from_its_first_commit_to_its_deletion(zkafka: Commands, topic: str) -> None:
    group = f"{topic}-readers"
    assert len(zkafka.lines("consume", topic, "-g", group, "-n", "10")) == 10
    assert {"group": group, "state": "EMPTY"} in zkafka.json("groups", "list")
    assert group in zkafka.says("groups", "list")

    described = zkafka.json("groups", "describe", group)
    assert described["state"] == "EMPTY"
    assert described["members"] == []
    assert sum(p["committed"] for p in described["partitions"]) == 10
    assert {p["lag"] for p in described["partitions"]} == {0}

    ends = {p["partition"]: p["end"] for p in described["partitions"]}
    begin = [{"partition": partition, "offset": 0} for partition in sorted(ends)]
    for options in (("--to", "earliest", "--dry-run"), ("--to", "@0"), ("--to", "0")):
        moved = zkafka.json("groups", "reset-offsets", group, topic, *options)
        assert [row for row in moved if row["partition"] in ends] == begin
        lags = {p["lag"] for p in zkafka.json("groups", "describe", group)["partitions"]}
        assert (lags == {0}) is ("--dry-run" in options)
    late = f"@{int(time.time() * 1000) + 60_000}"
    for where in ("latest", late):
        moved = zkafka.json("groups", "reset-offsets", group, topic, "--to", where)
        assert {row["partition"]: row["offset"] for row in moved}.items() >= ends.items(), where

    assert zkafka.says("groups", "delete", group) == f"deleted {group}\n"
    assert group not in zkafka.says("groups", "list")


def test_a_group_with_members_is_shown_and_left_alone(zkafka: Commands, topic: str) -> None:
    group = f"{topic}-live"
    consumer = Consumer(
        {
            "bootstrap.servers": zkafka.environment["KAFKA_BOOTSTRAP_SERVERS"],
            "group.id": group,
            "client.id": "reader",
            "auto.offset.reset": "earliest",
        }
    )
    try:
        consumer.subscribe([topic])
        assert len(consumer.consume(10, timeout=60)) == 10
        consumer.commit(asynchronous=False)

        described = zkafka.json("groups", "describe", group)
        assert described["state"] == "STABLE"
        assert len(described["members"]) == 1
        assert {p["client"] for p in described["partitions"]} == {"reader /127.0.0.1"}
        assert f"{group}  STABLE, 1 member, coordinator" in zkafka.says("groups", "describe", group)
        assert "is not empty" in zkafka.refuses("groups", "delete", group).lower()
        refused = zkafka.refuses("groups", "reset-offsets", group, topic, "--to", "earliest")
        assert group in refused
    finally:
        consumer.close()


# --- Znodes -----------------------------------------------------------------------------------


def test_znodes_are_decoded(zkafka: Commands, topic: str) -> None:
    tree = zkafka.json("znodes")
    assert tree["path"] == "/"
    assert {"brokers", "controller", "cluster", "config"} <= {
        child["path"].strip("/") for child in tree["children"]
    }
    [broker] = [
        child
        for child in zkafka.json("znodes", "/brokers/ids")["children"]
        if child["path"].endswith("/1")
    ]
    assert broker["meaning"].startswith("alive at PLAINTEXT://127.0.0.1:")
    assert broker["written_by"] == "by the broker itself"
    assert broker["ephemeral_owner"].startswith("0x")
    assert json.loads(broker["data"])["port"]

    shown = zkafka.says("znodes", f"brokers/topics/{topic}")
    assert shown.startswith(f"/brokers/topics/{topic}  id ")
    for partition in range(3):
        assert f"{partition}/state  leader " in shown
    for line in shown.splitlines():
        if "/state  leader " in line:
            [isr] = re.findall(r"leader epoch \d+, in sync ([123,]+), controller epoch", line)
            assert sorted(isr.split(",")) == ["1", "2", "3"]


def test_many_siblings_are_folded_unless_asked_for(zkafka: Commands) -> None:
    name = f"cli-{uuid.uuid4().hex[:8]}"
    zkafka.creates(name, "-p", "20", "-r", "1")
    partitions = f"/brokers/topics/{name}/partitions"

    above = zkafka.says("znodes", f"/brokers/topics/{name}")
    itself = zkafka.says("znodes", partitions)

    assert "11/state" in above
    assert "12/state" not in above
    assert f"and 8 more: zkafka znodes {partitions}" in above
    assert "19/state" in itself
    zkafka.says("topics", "delete", name)


# --- Refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("topics", "describe", "no-such-topic"), "topic no-such-topic: "),
        (("topics", "delete", "no-such-topic"), "topic no-such-topic: "),
        (("topics", "add-partitions", "no-such-topic", "3"), "topic no-such-topic: "),
        (("topics", "create", "a/b"), "topic a/b: "),
        (("topics", "create", "cli-few", "-r", "9"), "topic cli-few: "),
        (("topics", "create", "cli-odd", "-c", "retention.ms=soon"), "topic cli-odd: "),
        (("topics", "create", "cli-odd", "-c", "retention.ms"), "--config retention.ms: write it"),
        (("consume", "no-such-topic", "-e"), "topic no-such-topic: "),
        (("consume", "x", "-o", "soon"), "--offset soon: earliest, latest or a number"),
        (("consume", "x", "-g", "g", "-p", "1"), "a group shares out the partitions"),
        (("groups", "delete", "no-such-group"), "group no-such-group: "),
        (("groups", "reset-offsets", "g", "no-such", "--to", "earliest"), "topic no-such: "),
        (("znodes", "/no/such"), "no node /no/such at "),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, tuple) else None,
)
def test_what_cannot_be_done_is_one_sentence(
    zkafka: Commands, arguments: tuple[str, ...], said: str
) -> None:
    assert zkafka.refuses(*arguments).startswith(said)


def test_what_a_topic_has_already_is_refused(zkafka: Commands, topic: str) -> None:
    assert "already exists" in zkafka.refuses("topics", "create", topic)
    assert zkafka.refuses("topics", "add-partitions", topic, "2").startswith(f"topic {topic}: ")
    assert f"topic {topic} has no partition 7" in zkafka.refuses("consume", topic, "-p", "7")
    assert "no ':'" in zkafka.refuses("produce", topic, "-k", ":", stdin="no separator\n")
    said = zkafka.refuses("groups", "reset-offsets", "g", topic, "--to", "soon")
    assert said == "--to soon: earliest, latest, an offset, or @milliseconds"


def test_a_cluster_that_is_not_there_is_one_sentence(
    zkafka: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "TIMEOUT_S", 1.0)
    monkeypatch.setattr(znodes, "TIMEOUT_MS", 500)
    [port] = free_ports(1)
    nowhere = f"127.0.0.1:{port}"

    for command in (("topics", "list"), ("cluster", "describe"), ("groups", "list")):
        assert nowhere in zkafka.refuses(*command, "-b", nowhere)
    assert zkafka.refuses("znodes", "-z", nowhere).startswith(f"{nowhere}: ")


# --- As a process -----------------------------------------------------------------------------


def test_a_process_keeps_its_streams_and_codes_apart(zkafka: Commands, topic: str) -> None:
    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "zkafka.cli.main", *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, **zkafka.environment},
            timeout=180,
            check=False,
        )

    listed = run("topics", "list", "--json")
    assert listed.returncode == 0
    assert topic in [row["topic"] for row in json.loads(listed.stdout)]
    assert listed.stderr == ""

    refused = run("topics", "describe", "no-such-topic")
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert len(refused.stderr.splitlines()) == 1


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    script = CliRunner().invoke(main, ["completion", shell])
    assert script.exit_code == 0
    assert f"_ZKAFKA_COMPLETE={shell}_complete" in script.stdout
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script.stdout, text=True, check=True, timeout=60)

    offered = subprocess.run(
        [sys.executable, "-m", "zkafka.cli.main"],
        env={
            **os.environ,
            "_ZKAFKA_COMPLETE": f"{shell}_complete",
            "COMP_WORDS": "zkafka topics de",
            "COMP_CWORD": "de" if shell == "fish" else "2",
        },
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert "delete" in offered.stdout
    assert "describe" in offered.stdout
    assert "create" not in offered.stdout
