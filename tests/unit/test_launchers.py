"""bin/environment: what it finds, what it installs, and what it says when it may not.

Run on a copy beside a checkout of nothing, with commands of ours first on the PATH.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [*sorted((ROOT / "bin").iterdir()), ROOT / ".ci" / "run", ROOT / "zookeeper" / "run"]
TOOLS = ("bash", "cat", "cksum", "dirname", "mktemp", "rm", "tail")


class Machine:
    """A machine with a checkout, where only the commands exist that a test makes."""

    def __init__(self, path: Path) -> None:
        self.checkout = path / "checkout"
        (self.checkout / "bin").mkdir(parents=True)
        shutil.copy(ROOT / "bin" / "environment", self.checkout / "bin")
        (self.checkout / "setup.cfg").write_text("[metadata]\n")
        self.commands = path / "commands"
        self.commands.mkdir()
        self.calls = path / "calls"
        self.calls.touch()
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found is not None
            (self.commands / tool).symlink_to(found)

    def command(self, name: str, says: str = "", code: int = 0, *, at: Path | None = None) -> None:
        """Have a command that notes how it was called."""
        path = self.commands / name if at is None else at
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f'#!/bin/bash\necho "{name} $*" >>{self.calls}\necho "{says}"\nexit {code}\n'
        )
        path.chmod(0o755)

    def run(self, script: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f"source bin/environment\n{script}"],
            cwd=self.checkout,
            env={"PATH": str(self.commands), **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def environment_has(self, extra: str) -> None:
        """As after an installation of that extra."""
        self.command("python", at=self.checkout / ".venv" / "bin" / "python")
        done = self.run(
            f'printf "%s" "$(cksum <setup.cfg) {self.checkout}" >.venv/.installed-{extra}'
        )
        assert done.returncode == 0


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_scripts_are_bash(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=120)
    assert os.access(script, os.X_OK) or script.name == "environment"


def test_a_machine_without_java_and_zookeeper_gets_debians(machine: Machine) -> None:
    machine.command("id", says="0")
    machine.command("apt-get")

    done = machine.run("ensure_zookeeper")

    assert done.returncode == 0, done.stderr
    assert "default-jre-headless" in machine.calls.read_text()
    assert "there is no ZooKeeper to run here: installing Debian's" in done.stderr


def test_who_may_not_install_is_told_what_to_install(machine: Machine) -> None:
    machine.command("id", says="1000")
    machine.command("apt-get")

    done = machine.run("ensure_zookeeper")

    assert done.returncode == 1
    assert "default-jre-headless' as root, then try again" in done.stderr
    assert "apt-get" not in machine.calls.read_text()


def test_an_installation_that_fails_is_quoted(machine: Machine) -> None:
    machine.command("id", says="0")
    machine.command("apt-get", says="E: no network", code=100)

    done = machine.run("ensure_zookeeper")

    assert done.returncode == 1
    assert "E: no network" in done.stderr
    assert "apt-get could not install" in done.stderr.splitlines()[-1]


def test_a_zookeeper_and_java_of_ones_own_are_enough(machine: Machine) -> None:
    done = machine.run("ensure_zookeeper", ZOOKEEPER_HOME="/opt/zookeeper", JAVA_HOME="/opt/java")

    assert done.returncode == 0
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("has", "wanted"),
    [("test", "test"), ("test", "cli"), ("test", "broker"), ("cli", "cli"), ("cli", "broker")],
)
def test_an_environment_serves_all_that_it_has(machine: Machine, has: str, wanted: str) -> None:
    machine.environment_has(has)

    done = machine.run(f'environment_for {wanted}; echo "$PYTHON"')

    assert done.stdout == f"{machine.checkout}/.venv/bin/python\n"
    assert done.stderr == "", "nothing to do, nothing to say"
    assert machine.calls.read_text() == ""


@pytest.mark.parametrize("change", ["setup.cfg", "place", "less"])
def test_what_changed_is_installed_anew(machine: Machine, change: str) -> None:
    machine.environment_has("broker" if change == "less" else "cli")
    if change == "setup.cfg":
        (machine.checkout / "setup.cfg").write_text("[metadata]\nversion = 2\n")
    elif change == "place":
        machine.checkout = machine.checkout.rename(machine.checkout.with_name("moved"))
    machine.command("python3", says="Python 3.12")

    first = machine.run("environment_for cli")
    calls = machine.calls.read_text()
    second = machine.run("environment_for cli")

    assert first.returncode == second.returncode == 0, first.stderr
    assert f"--editable {machine.checkout}[cli]" in calls
    assert second.stderr == ""
    assert machine.calls.read_text() == calls, "once"


def test_a_machine_without_a_recent_python_is_told(machine: Machine) -> None:
    done = machine.run("environment_for cli")

    assert done.returncode == 1
    assert done.stderr == (
        "error: Python 3.11 or later was not found: install it, or name one with ZKAFKA_PYTHON\n"
    )
