"""The pytest plugin: a ZooKeeper and clusters as fixtures, and what a test requires of a machine.

Installed with the package, so that every test suite beside it has these. Nothing heavy is imported
until a fixture is asked for, and confluent-kafka never.

Fixtures:

- `zkafka_cluster`: a `BlockingCluster` of three broker processes beside a ZooKeeper of its own, for
  one test. `@pytest.mark.zkafka(brokers=1, config={...}, ...)` hands other arguments to `Cluster`.
- `zkafka_clusters`: a function that makes such clusters, with `Cluster`'s arguments; each lives
  until the end of the session. Wrap it in a module-scoped fixture to share one:

      @pytest.fixture(scope="module")
      def cluster(zkafka_clusters):
          return zkafka_clusters(brokers=3)

- `zookeeper`: one standalone ZooKeeper for the session, which tests share. Give each of your
  clusters a chroot of its own: `Cluster(zookeeper=zookeeper, chroot="/mine")`.

Tests written with trio use `zkafka.testing.cluster.Cluster` as it is.

Functions for tests and fixtures, since a test that quietly does not run is worse than a red one:

- `require(tool)`: the path of a program. Where the program is missing the test is skipped, with a
  line that says so; in CI (`CI=true`) it fails instead.
- `require_module(name)`, `require_zookeeper()`: the same for a Python module, and for ZooKeeper
  with its Java.
"""

import importlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from zkafka.testing.blocking import BlockingCluster
    from zkafka.testing.zookeeper import ZooKeeper


def require(tool: str) -> str:
    """The path of a program this test needs; else a loud skip, or in CI a failure."""
    path = shutil.which(tool)
    if path is None:
        missing(f"the program {tool!r} is not on the PATH")
    return path


def require_module(name: str) -> ModuleType:
    """A Python module this test needs; else a loud skip, or in CI a failure."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing(f"the Python module {name!r} cannot be imported: {error}")


def require_zookeeper() -> None:
    """A ZooKeeper to run, and its Java; else a loud skip, or in CI a failure."""
    from zkafka.testing.zookeeper import ZooKeeperNotFound, find_installation

    try:
        find_installation()
    except ZooKeeperNotFound as error:
        missing(str(error))


def missing(what: str) -> NoReturn:
    """End this test for want of `what`: a failure in CI, elsewhere a skip that is reported."""
    if os.environ.get("CI", "").lower() in ("1", "true", "yes"):
        pytest.fail(f"missing in CI: {what}", pytrace=False)
    pytest.skip(f"MISSING HERE, NOT TESTED: {what}")


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers", "zkafka(**arguments): what `zkafka_cluster` hands to zkafka.testing.Cluster"
    )


@pytest.fixture(scope="session")
def zookeeper(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[ZooKeeper]":
    """One standalone ZooKeeper, serving, for the whole session."""
    require_zookeeper()
    from zkafka.testing.zookeeper import ZooKeeper

    with ZooKeeper.create(tmp_path_factory.mktemp("zookeeper")) as running:
        yield running


@pytest.fixture(scope="session")
def zkafka_clusters(
    tmp_path_factory: pytest.TempPathFactory,
) -> "Iterator[Callable[..., BlockingCluster]]":
    """Makes clusters that live until the end of the session."""
    require_zookeeper()
    from zkafka.testing.blocking import BlockingCluster

    with ExitStack() as stack:

        def make(**arguments: Any) -> "BlockingCluster":
            arguments.setdefault("directory", tmp_path_factory.mktemp("zkafka"))
            return stack.enter_context(BlockingCluster(**arguments))

        yield make


@pytest.fixture
def zkafka_cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> "Iterator[BlockingCluster]":
    """A cluster for one test; three brokers, unless the marker `zkafka` says otherwise."""
    require_zookeeper()
    from zkafka.testing.blocking import BlockingCluster

    marker = request.node.get_closest_marker("zkafka")
    arguments = dict(marker.kwargs) if marker is not None else {}
    arguments.setdefault("directory", tmp_path_factory.mktemp("zkafka"))
    with BlockingCluster(**arguments) as cluster:
        yield cluster
