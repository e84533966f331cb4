"""A real ZooKeeper on loopback: standalone or an ensemble, broken and mended at will.

Found in this order: `ZOOKEEPER_HOME` (an unpacked Apache release), then the jars of Debian's and
Ubuntu's package `zookeeper`. Each server has a directory of its own (configuration, data, log, pid)
and free ports, so that any number can run side by side.

What is set differently from a production server, and why:

- `tickTime` is a quarter of a second, so that sessions of a second can be asked for: a test that
  waits for an expiry should not wait for the default of six seconds.
- `forceSync=no`: what survives here is the death of a process, not of the machine.
- A small heap, the serial collector and only the first compiler: a server is up in half a second.
- No admin server; the words `ruok`, `srvr`, `cons`, `mntr` are allowed.

The core is synchronous, for commands; `..._async` are the same for trio, and never block the loop
for longer than a loopback connection takes.
"""

import os
import shutil
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import attrs
import trio

from zkafka.testing.processes import ChildProcess, ProcessFailed, free_ports, is_free

DEBIAN_JAR = Path("/usr/share/java/zookeeper.jar")
SERVER_CLASS = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
TICK_MS = 250
MIN_SESSION_TIMEOUT_MS = 2 * TICK_MS
START_SECONDS = 60.0
ASK_SECONDS = 10.0
"""How long a server that accepts may take to answer on a busy machine."""

_JVM = (
    "-Xmx96m",
    "-Xss512k",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xshare:auto",
    "-Djava.net.preferIPv4Stack=true",
    "-Djava.awt.headless=true",
    "-Dzookeeper.forceSync=no",
    "-Dzookeeper.admin.enableServer=false",
    "-Dzookeeper.jmx.log4j.disable=true",
    # Debian's jars log through slf4j-simple, a release through logback; both to stdout, our file.
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss,SSS",
    "-Dzookeeper.console.threshold=INFO",
)


class ZooKeeperNotFound(Exception):
    """No ZooKeeper, or no Java, on this machine; says what to install or set."""


@attrs.frozen
class Installation:
    """Where ZooKeeper's code is, and the Java that runs it."""

    java: str
    class_path: str
    origin: str

    def command(self, configuration: Path) -> list[str]:
        """What starts a server in the foreground."""
        return [self.java, *_JVM, "-cp", self.class_path, SERVER_CLASS, str(configuration)]


def find_installation(environ: Mapping[str, str] = os.environ) -> Installation:
    """The ZooKeeper to run: `ZOOKEEPER_HOME`, then Debian's package; raises ZooKeeperNotFound."""
    java = _find_java(environ)
    home = environ.get("ZOOKEEPER_HOME")
    if home:
        jars = Path(home) / "lib"
        if not any(jars.glob("zookeeper-*.jar")):
            raise ZooKeeperNotFound(
                f"ZOOKEEPER_HOME={home} holds no lib/zookeeper-*.jar: "
                "it must be an unpacked binary release of Apache ZooKeeper"
            )
        return Installation(java, f"{jars}/*:{home}/conf", f"ZOOKEEPER_HOME={home}")
    if DEBIAN_JAR.exists():
        # The jar's manifest names what it depends on; a logger it leaves to us.
        logger = DEBIAN_JAR.with_name("slf4j-simple.jar")
        class_path = f"{DEBIAN_JAR}:{logger}" if logger.exists() else str(DEBIAN_JAR)
        return Installation(java, class_path, f"Debian's package ({DEBIAN_JAR})")
    raise ZooKeeperNotFound(
        "no ZooKeeper on this machine: set ZOOKEEPER_HOME to an unpacked Apache release, "
        "or install the package (apt-get install zookeeper)"
    )


def _find_java(environ: Mapping[str, str]) -> str:
    home = environ.get("JAVA_HOME")
    java = f"{home}/bin/java" if home else shutil.which("java", path=environ.get("PATH"))
    if java is None or not Path(java).exists():
        where = f"JAVA_HOME={home} holds no bin/java" if home else "no java on the PATH"
        raise ZooKeeperNotFound(
            f"{where}: ZooKeeper needs a Java runtime (apt-get install default-jre-headless)"
        )
    return java


@attrs.define(eq=False)
class ZooKeeperServer:
    """One server: its directory, its ports, its process. Made by `ZooKeeper`."""

    server_id: int
    directory: Path
    client_port: int
    installation: Installation
    peers: Mapping[int, tuple[int, int]] = attrs.field(factory=dict)
    """Quorum and election port of each server of the ensemble; empty when standalone."""
    process: ChildProcess | None = None

    @property
    def address(self) -> str:
        """`host:port` for clients."""
        return f"127.0.0.1:{self.client_port}"

    @property
    def log_path(self) -> Path:
        """Where the server's own words are."""
        return self.directory / "zookeeper.log"

    @property
    def data_directory(self) -> Path:
        """Snapshots and transaction log."""
        return self.directory / "data"

    @property
    def pid_path(self) -> Path:
        """Names the process for `attach`."""
        return self.directory / "zookeeper.pid"

    @property
    def running(self) -> bool:
        """Whether its process lives; it may not serve yet, or be paused."""
        return self.process is not None and self.process.running

    def configuration(self) -> str:
        """The server's zoo.cfg."""
        lines = [
            f"tickTime={TICK_MS}",
            f"minSessionTimeout={MIN_SESSION_TIMEOUT_MS}",
            "maxSessionTimeout=120000",
            f"dataDir={self.data_directory}",
            "clientPortAddress=127.0.0.1",
            f"clientPort={self.client_port}",
            "maxClientCnxns=0",
            "admin.enableServer=false",
            "4lw.commands.whitelist=ruok,srvr,cons,mntr",
            "autopurge.purgeInterval=0",
        ]
        if self.peers:
            lines += ["initLimit=120", "syncLimit=60"]
            lines += [
                f"server.{server_id}=127.0.0.1:{quorum}:{election}"
                for server_id, (quorum, election) in sorted(self.peers.items())
            ]
        return "\n".join(lines) + "\n"

    def spawn(self, *, detached: bool = False) -> None:
        """Start the process without waiting for it to serve; its data stays what it was.

        Errors: ProcessFailed if somebody listens on the port. The server would find out by itself,
        but until then that somebody would answer in its name.
        """
        assert not self.running, f"zookeeper {self.server_id} is running already"
        if not is_free(self.client_port):
            raise ProcessFailed(f"zookeeper {self.server_id}: port {self.client_port} is taken")
        self.data_directory.mkdir(parents=True, exist_ok=True)
        (self.data_directory / "myid").write_text(f"{self.server_id}\n")
        configuration = self.directory / "zoo.cfg"
        configuration.write_text(self.configuration())
        self.process = ChildProcess.spawn(
            f"zookeeper {self.server_id}",
            self.installation.command(configuration),
            log_path=self.log_path,
            pid_path=self.pid_path,
            cwd=self.directory,
            detached=detached,
        )

    def attach(self) -> bool:
        """Take over the process an earlier run of us left; False if there is none."""
        self.process = ChildProcess.find(
            f"zookeeper {self.server_id}", pid_path=self.pid_path, log_path=self.log_path
        )
        return self.running

    def mode(self) -> str | None:
        """`standalone`, `leader` or `follower` when it serves clients; None when it does not."""
        return _mode_in(ask(self.client_port, "srvr"))

    async def mode_async(self) -> str | None:
        """`mode` for trio."""
        return _mode_in(await ask_async(self.client_port, "srvr"))

    def raise_if_ended(self) -> None:
        """ProcessFailed with the end of the log, if the process is gone."""
        if not self.running:
            raise ProcessFailed(
                f"zookeeper {self.server_id} ended while it should run\n{self._log_tail()}"
            )

    def stop(self) -> None:
        """SIGTERM, then SIGKILL; its sessions and data remain for the next start. Blocks."""
        if self.process is not None:
            self.process.end()

    async def stop_async(self) -> None:
        """`stop` for trio."""
        if self.process is not None:
            await self.process.end_async()

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self.process is not None:
            self.process.signal(signal.SIGKILL)
            await self.process.wait_ended()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        if self.process is not None:
            self.process.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        if self.process is not None:
            self.process.signal(signal.SIGCONT)

    def wipe(self) -> None:
        """Forget everything; only while stopped."""
        assert not self.running, f"zookeeper {self.server_id} runs: stop it before wiping"
        shutil.rmtree(self.data_directory, ignore_errors=True)

    def _log_tail(self) -> str:
        return "" if self.process is None else self.process.log_tail()


@attrs.define(eq=False)
class ZooKeeper:
    """One server or an ensemble, as one thing. `async with`, or `start` and `stop`."""

    directory: Path
    servers: Sequence[ZooKeeperServer]

    @classmethod
    def create(
        cls,
        directory: Path,
        *,
        size: Literal[1, 3, 5] = 1,
        client_port: int | None = None,
        installation: Installation | None = None,
    ) -> "ZooKeeper":
        """Lay out `size` servers under `directory`, on free ports; nothing is started yet.

        `client_port` fixes the port of a standalone server, where people will type it.
        """
        installation = installation or find_installation()
        directory = directory.absolute()
        ports = free_ports(3 * size)
        client_ports = ports[:size] if client_port is None else [client_port]
        if size > 1 and client_port is not None:
            raise ValueError("client_port is for a standalone server")
        ids = range(1, size + 1)
        peers = {i: (ports[size + i - 1], ports[2 * size + i - 1]) for i in ids}
        servers = [
            ZooKeeperServer(
                server_id=i,
                directory=directory / f"zookeeper-{i}",
                client_port=client_ports[i - 1],
                installation=installation,
                peers=peers if size > 1 else {},
            )
            for i in ids
        ]
        for server in servers:
            server.directory.mkdir(parents=True, exist_ok=True)
        return cls(directory, servers)

    @property
    def connect(self) -> str:
        """`host:port,...` as in zookeeper.connect, without a chroot."""
        return ",".join(server.address for server in self.servers)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of every server, in the order of `connect`."""
        return [("127.0.0.1", server.client_port) for server in self.servers]

    def start(self, *, detached: bool = False, timeout: float = START_SECONDS) -> "ZooKeeper":
        """Start every server that is down, and wait until all serve. Blocks."""
        for server in self.servers:
            if not server.running:
                server.spawn(detached=detached)
        deadline = time.monotonic() + timeout
        while not all(server.mode() for server in self.servers):
            self._raise_if_late(time.monotonic() >= deadline, timeout)
            # The server tells nobody when it is ready; it has to be asked.
            time.sleep(0.03)
        return self

    def stop(self) -> None:
        """Stop every server; `start` goes on with the same data and sessions. Blocks."""
        for server in self.servers:
            server.stop()

    async def start_async(self, *, timeout: float = START_SECONDS) -> "ZooKeeper":
        """`start` for trio."""
        for server in self.servers:
            if not server.running:
                server.spawn()
        deadline = trio.current_time() + timeout
        while not all([await server.mode_async() for server in self.servers]):
            self._raise_if_late(trio.current_time() >= deadline, timeout)
            await trio.sleep(0.03)
        return self

    async def stop_async(self) -> None:
        """`stop` for trio, all servers at once."""
        async with trio.open_nursery() as nursery:
            for server in self.servers:
                nursery.start_soon(server.stop_async)

    async def leader(self, *, timeout: float = START_SECONDS) -> ZooKeeperServer:
        """The server that leads the ensemble (or the only one), waiting for an election."""
        with trio.move_on_after(timeout):
            while True:
                for server in self.servers:
                    if server.running and await server.mode_async() in ("leader", "standalone"):
                        return server
                await trio.sleep(0.03)
        raise ProcessFailed(f"no leader among {self.connect} within {timeout:g} s")

    def pause(self) -> None:
        """SIGSTOP every server."""
        for server in self.servers:
            server.pause()

    def resume(self) -> None:
        """SIGCONT every server."""
        for server in self.servers:
            server.resume()

    def wipe(self) -> None:
        """Forget everything, while stopped: what a lost disk leaves behind."""
        for server in self.servers:
            server.wipe()

    async def __aenter__(self) -> "ZooKeeper":
        try:
            return await self.start_async()
        except BaseException:
            self._kill_now()
            raise

    async def __aexit__(self, *exc_info: object) -> None:
        with trio.CancelScope(shield=True):
            await self.stop_async()

    def __enter__(self) -> "ZooKeeper":
        try:
            return self.start()
        except BaseException:
            self._kill_now()
            raise

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _kill_now(self) -> None:
        """Leave nothing running behind a start that failed."""
        for server in self.servers:
            if server.process is not None:
                server.process.signal(signal.SIGKILL)
                server.process.wait(5.0)

    def _raise_if_late(self, late: bool, timeout: float) -> None:
        for server in self.servers:
            server.raise_if_ended()
        if late:
            logs = "\n".join(f"{server.log_path}:\n{server._log_tail()}" for server in self.servers)
            raise ProcessFailed(f"ZooKeeper does not serve after {timeout:g} s\n{logs}")


def ask(port: int, word: str, *, timeout: float = ASK_SECONDS) -> str:
    """What the server on this loopback port answers to a four-letter word; "" if it does not."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout) as connection:
            connection.sendall(word.encode())
            answer = b""
            while data := connection.recv(4096):
                answer += data
    except OSError:
        return ""
    return answer.decode(errors="replace")


async def ask_async(port: int, word: str, *, timeout: float = ASK_SECONDS) -> str:
    """`ask` for trio."""
    answer = b""
    with trio.move_on_after(timeout):
        try:
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(word.encode())
                async for data in stream:
                    answer += data
        except (OSError, trio.BrokenResourceError):
            return ""
        return answer.decode(errors="replace")
    return ""


def _mode_in(answer: str) -> str | None:
    for line in answer.splitlines():
        key, _, value = line.partition(":")
        if key == "Mode":
            return value.strip()
    return None
