"""What can be known of the container files without an engine."""

import configparser
import re
from pathlib import Path

import javaproperties
import pytest

from zkafka.config import BrokerConfig, merge_properties

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"


def compose_environments() -> dict[str, dict[str, str]]:
    """Service -> its ZKAFKA_ variables, the shared ones included."""
    text = (DOCKER / "compose.yaml").read_text()
    pair = re.compile(r"^\s+(ZKAFKA_[A-Z0-9_]+): (\S.*)$", re.MULTILINE)
    shared_text, rest = text.split("\nservices:\n")
    services, _ = rest.split("\nvolumes:\n")
    shared = dict(pair.findall(shared_text))
    blocks = re.split(r"^  (broker\d):\n", services, flags=re.MULTILINE)[1:]
    return {
        name: shared | dict(pair.findall(block))
        for name, block in zip(blocks[::2], blocks[1::2], strict=True)
    }


def config_of(environment: dict[str, str]) -> BrokerConfig:
    text = (DOCKER / "server.properties").read_text()
    return BrokerConfig.parse(merge_properties(text, [], environment))


@pytest.mark.parametrize("service", ["broker1", "broker2", "broker3"])
def test_every_setting_of_the_compose_file_is_known(service: str) -> None:
    config = config_of(compose_environments()[service])

    assert not config.unknown_keys
    assert not config.ignored_keys
    assert config.inter_broker_listener_name == "INTERNAL"


def test_the_brokers_of_the_compose_file_do_not_collide() -> None:
    configs = {name: config_of(env) for name, env in compose_environments().items()}

    assert len({config.broker_id for config in configs.values()}) == 3
    advertised = [str(e) for config in configs.values() for e in config.advertised_listeners]
    assert len(set(advertised)) == len(advertised) == 6
    for name, config in configs.items():
        internal = {e.listener: e for e in config.advertised_listeners}["INTERNAL"]
        assert internal.host == name
        published = {e.listener: e for e in config.advertised_listeners}["PLAINTEXT"]
        text = (DOCKER / "compose.yaml").read_text()
        assert f'"127.0.0.1:{published.port}:{published.port}"' in text


def test_the_defaults_of_the_image_are_settings_we_know() -> None:
    config = config_of({})

    assert not config.unknown_keys
    assert config.admin_listener is not None
    assert config.log_dirs == ("/var/lib/zkafka/data",)


def test_the_image_copies_files_that_exist_and_runs_a_command_that_is_installed() -> None:
    text = (DOCKER / "Dockerfile").read_text()
    copied = [
        name
        for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE)
        for name in line.split()[:-1]
    ]
    assert copied
    sent = (ROOT / ".dockerignore").read_text().splitlines()
    for name in copied:
        assert (ROOT / name).exists(), name
        assert f"!{name.removeprefix('./')}" in sent, name
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    command = re.search(r'^ENTRYPOINT \["([^"]+)"', text, re.MULTILINE)
    assert command
    assert f"{command[1]} =" in setup["options.entry_points"]["console_scripts"]


def test_the_image_does_not_run_as_root_and_keeps_its_data_in_a_volume() -> None:
    text = (DOCKER / "Dockerfile").read_text()
    data = javaproperties.loads((DOCKER / "server.properties").read_text())["log.dirs"]

    user = re.search(r"^USER (\S+)$", text, re.MULTILINE)
    assert user
    assert user[1] != "root"
    volume = re.search(r"^VOLUME (\S+)$", text, re.MULTILINE)
    assert volume
    assert data.startswith(volume[1])
    admin = javaproperties.loads((DOCKER / "server.properties").read_text())[
        "zkafka.admin.listener"
    ]
    assert f"127.0.0.1:{admin.rpartition(':')[2]}/readyz" in text
