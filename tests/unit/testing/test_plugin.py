"""What a machine lacks is a loud skip at home, and a failure in CI."""

import subprocess
import sys

import pytest

from zkafka.testing import plugin


def outcome_of(monkeypatch: pytest.MonkeyPatch, ci: str | None) -> BaseException:
    if ci is None:
        monkeypatch.delenv("CI", raising=False)
    else:
        monkeypatch.setenv("CI", ci)
    with pytest.raises((pytest.skip.Exception, pytest.fail.Exception)) as ended:
        plugin.require("no-such-program")
    return ended.value


@pytest.mark.parametrize("ci", [None, "", "false"])
def test_a_missing_program_is_a_loud_skip_at_home(
    monkeypatch: pytest.MonkeyPatch, ci: str | None
) -> None:
    error = outcome_of(monkeypatch, ci)
    assert isinstance(error, pytest.skip.Exception)
    assert "NOT TESTED" in str(error)
    assert "no-such-program" in str(error)


@pytest.mark.parametrize("ci", ["true", "1"])
def test_a_missing_program_is_a_failure_in_ci(monkeypatch: pytest.MonkeyPatch, ci: str) -> None:
    error = outcome_of(monkeypatch, ci)
    assert isinstance(error, pytest.fail.Exception)
    assert "no-such-program" in str(error)


def test_what_is_there_is_returned() -> None:
    assert plugin.require("sh").endswith("/sh")
    assert plugin.require_module("json").__name__ == "json"


def test_a_missing_module_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no_such_module"):
        plugin.require_module("no_such_module")


def test_a_missing_zookeeper_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv("ZOOKEEPER_HOME", "/nowhere")
    with pytest.raises(pytest.fail.Exception, match="ZOOKEEPER_HOME"):
        plugin.require_zookeeper()


@pytest.mark.slow
def test_the_plugin_costs_other_test_suites_nothing() -> None:
    """It is loaded wherever the package is installed, also by those who do not use it."""
    script = (
        "import sys, zkafka.testing.plugin\n"
        "heavy = {'confluent_kafka', 'kazoo', 'trio', 'zkafka.broker'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
