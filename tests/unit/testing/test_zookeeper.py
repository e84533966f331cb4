"""How a ZooKeeper is found and laid out; a running one is in tests/integration."""

from pathlib import Path

import pytest

from zkafka.testing.zookeeper import (
    DEBIAN_JAR,
    Installation,
    ZooKeeper,
    ZooKeeperNotFound,
    find_installation,
)

ANYTHING = Installation("java", "class path", "a test")


@pytest.fixture
def java_home(tmp_path: Path) -> Path:
    java = tmp_path / "jdk" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.touch()
    return tmp_path / "jdk"


def test_zookeeper_home_comes_first(tmp_path: Path, java_home: Path) -> None:
    home = tmp_path / "apache-zookeeper"
    (home / "lib").mkdir(parents=True)
    (home / "lib" / "zookeeper-3.9.3.jar").touch()
    found = find_installation({"ZOOKEEPER_HOME": str(home), "JAVA_HOME": str(java_home)})
    assert found.java == f"{java_home}/bin/java"
    assert found.class_path == f"{home}/lib/*:{home}/conf"


def test_a_zookeeper_home_without_jars_is_refused_not_passed_over(
    tmp_path: Path, java_home: Path
) -> None:
    environ = {"ZOOKEEPER_HOME": str(tmp_path), "JAVA_HOME": str(java_home)}
    with pytest.raises(ZooKeeperNotFound, match="holds no lib/zookeeper"):
        find_installation(environ)


def test_debians_package_comes_second(
    tmp_path: Path, java_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jar = tmp_path / "zookeeper.jar"
    monkeypatch.setattr("zkafka.testing.zookeeper.DEBIAN_JAR", jar)
    with pytest.raises(ZooKeeperNotFound, match="apt-get install zookeeper"):
        find_installation({"JAVA_HOME": str(java_home)})
    jar.touch()
    assert find_installation({"JAVA_HOME": str(java_home)}).class_path == str(jar)
    (tmp_path / "slf4j-simple.jar").touch()
    found = find_installation({"JAVA_HOME": str(java_home)})
    assert found.class_path == f"{jar}:{tmp_path}/slf4j-simple.jar"
    assert str(DEBIAN_JAR.parent) == "/usr/share/java"


@pytest.mark.parametrize("environ", [{"PATH": "/nowhere"}, {"JAVA_HOME": "/nowhere"}])
def test_no_java_is_said_so(environ: dict[str, str]) -> None:
    with pytest.raises(ZooKeeperNotFound, match="needs a Java runtime"):
        find_installation(environ)


def test_a_standalone_server_names_no_peers(tmp_path: Path) -> None:
    zookeeper = ZooKeeper.create(tmp_path, client_port=12345, installation=ANYTHING)
    [server] = zookeeper.servers
    lines = server.configuration().splitlines()
    assert "clientPort=12345" in lines
    assert "admin.enableServer=false" in lines
    assert not [line for line in lines if line.startswith("server.")]
    assert zookeeper.connect == "127.0.0.1:12345"


def test_an_ensemble_agrees_on_who_its_servers_are(tmp_path: Path) -> None:
    zookeeper = ZooKeeper.create(tmp_path, size=3, installation=ANYTHING)
    peers = [
        [line for line in server.configuration().splitlines() if line.startswith("server.")]
        for server in zookeeper.servers
    ]
    assert peers[0] == peers[1] == peers[2]
    assert len(peers[0]) == 3
    ports = {port for line in peers[0] for port in line.split(":")[1:]}
    ports |= {str(server.client_port) for server in zookeeper.servers}
    assert len(ports) == 9
    directories = {server.data_directory for server in zookeeper.servers}
    assert len(directories) == 3
    assert zookeeper.connect.count(",") == 2


def test_an_ensemble_has_no_single_client_port(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="standalone"):
        ZooKeeper.create(tmp_path, size=3, client_port=1, installation=ANYTHING)


def test_short_sessions_can_be_asked_for(tmp_path: Path) -> None:
    [server] = ZooKeeper.create(tmp_path, installation=ANYTHING).servers
    settings = dict(line.split("=", 1) for line in server.configuration().splitlines())
    assert int(settings["minSessionTimeout"]) <= 1000
    assert int(settings["tickTime"]) * 2 <= int(settings["minSessionTimeout"])
