"""Unmodified clients of five languages do the journey of clients/journey.md with three brokers."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from zkafka.testing.blocking import BlockingCluster
from zkafka.testing.plugin import missing, require

CLIENTS = Path(__file__).parent / "clients"
CACHE = Path(__file__).resolve().parents[2] / ".cache"
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
PRODUCED = sorted(f"{codec}-{i}" for codec in CODECS for i in range(20))
LATER = sorted(f"later-{i}" for i in range(10))


def run_journey(
    cluster: BlockingCluster,
    topic: str,
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run one client's journey and judge what it says it saw."""
    done = subprocess.run(
        [*command, cluster.bootstrap, topic],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, **(environment or {})},
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    account = json.loads(done.stdout.splitlines()[-1])

    assert sorted(account["seen"]) == PRODUCED
    assert len(account["shares"]) == 2
    assert sum(account["shares"]) == 3
    assert min(account["shares"]) >= 1
    assert sorted(account["resumed"]) == LATER
    assert sorted(account["by_time"]) == LATER


@pytest.mark.parametrize("client", ["confluent", "aiokafka", "kafka_python"])
def test_python_client(three_brokers: BlockingCluster, client: str) -> None:
    program = CLIENTS / f"journey_{client}.py"
    run_journey(three_brokers, f"journey-{client}", [sys.executable, str(program)])


def test_kcat(three_brokers: BlockingCluster) -> None:
    require("kcat")
    program = CLIENTS / "journey_kcat.py"
    run_journey(three_brokers, "journey-kcat", [sys.executable, str(program)])


def test_apache_kafka_console_tools(three_brokers: BlockingCluster, kafka_jars: Path) -> None:
    program = CLIENTS / "journey_java.py"
    run_journey(
        three_brokers,
        "journey-java",
        [sys.executable, str(program)],
        {"KAFKA_JARS": str(kafka_jars)},
    )


def test_kafkajs(three_brokers: BlockingCluster) -> None:
    require("node")
    npm = require("npm")
    home = CACHE / "kafkajs"
    home.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json", "journey.js"):
        shutil.copy(CLIENTS / "kafkajs" / name, home)
    if not (home / "node_modules" / "kafkajs").exists():
        install = [npm, "ci", "--no-audit", "--no-fund", "--silent"]
        subprocess.run(install, cwd=home, check=True, timeout=900)
    run_journey(three_brokers, "journey-kafkajs", ["node", str(home / "journey.js")])


def test_franz_go(three_brokers: BlockingCluster) -> None:
    go = require("go")
    program = CACHE / "franz-go-journey"
    program.parent.mkdir(exist_ok=True)
    built = subprocess.run(
        [go, "build", "-o", str(program), "."],
        cwd=CLIENTS / "franz-go",
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    if "invalid go version" in built.stderr or "requires go >=" in built.stderr:
        missing(f"this Go is too old: {built.stderr.strip()}")
    assert built.returncode == 0, built.stderr
    run_journey(three_brokers, "journey-franz-go", [str(program)])
