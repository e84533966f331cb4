"""`zkafka-start server.properties [--override key=value ...]`: one broker in the foreground.

Settings come from the file, then `ZKAFKA_...` variables, then `--override`, the later over the
earlier. SIGTERM and SIGINT ask for a controlled shutdown and exit 0. A second one does not wait for
it, and exits as a process does that was killed by that signal (143, 130): the next start recovers
the logs. Whatever keeps the broker from starting is one line on standard error and exit 1.

`ZKAFKA_LOG_LEVEL` is DEBUG, INFO (the default), WARNING or ERROR.
"""

import argparse
import gc
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import trio

import zkafka
from zkafka.broker import Broker
from zkafka.config import BrokerConfig, merge_properties
from zkafka.errors import ConfigError, StartupError, StorageError
from zkafka.net.listener import raise_fd_limit

log = logging.getLogger("zkafka")

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")

NOT_SETTINGS = ("ZKAFKA_LOG_LEVEL", "ZKAFKA_PYTHON")
"""Variables of ours that name no key of the properties file; the second is the launchers'."""


class StoppedAtOnce(Exception):
    """A second signal came while the broker was stopping; nothing more is handed over or marked."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number


def main(argv: Sequence[str] | None = None) -> int:
    """Run a broker until it is told to stop; the process's exit code."""
    arguments = _parser().parse_args(argv)
    exit_code = 0
    try:
        _start_logging()
        config = _load(arguments.properties, arguments.override)
        raise_fd_limit()
        trio.run(_serve, config)
    except* (ConfigError, StartupError) as group:
        for error in _leaves(group):
            print(f"error: {error}", file=sys.stderr)  # noqa: T201, what the operator reads
        exit_code = 1
    except* StorageError as group:
        for error in _leaves(group):
            log.critical("stopped: no log directory is left error=%s", error)
        exit_code = 1
    except* StoppedAtOnce as group:
        [stopped] = group.exceptions
        assert isinstance(stopped, StoppedAtOnce)
        exit_code = 128 + stopped.number
    return exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="zkafka-start",
        description="Run one zkafka broker in the foreground, beside a ZooKeeper.",
        epilog="Every setting can also come from the environment: "
        "ZKAFKA_LOG_DIRS=/data is log.dirs=/data.",
    )
    parser.add_argument("properties", type=Path, help="a Kafka server.properties file")
    parser.add_argument(
        "--override",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set one key, over the file and the environment; may be repeated",
    )
    parser.add_argument("--version", action="version", version=f"zkafka {zkafka.__version__}")
    return parser


def _start_logging() -> None:
    level = os.environ.get("ZKAFKA_LOG_LEVEL", "INFO").upper()
    if level not in LEVELS:
        raise ConfigError(
            f"ZKAFKA_LOG_LEVEL={level!r} is not allowed: it must be one of {', '.join(LEVELS)}"
        )
    logging.basicConfig(
        level=level,
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
        stream=sys.stdout,
    )
    logging.getLogger("kazoo").setLevel(logging.WARNING)  # the session's own module says it shorter


def _load(path: Path, overrides: Sequence[str]) -> BrokerConfig:
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read {path}: it is not UTF-8 text") from error
    environment = {k: v for k, v in os.environ.items() if k not in NOT_SETTINGS}
    config = BrokerConfig.parse(merge_properties(text, overrides, environment))
    if config.unknown_keys:
        log.warning("unknown settings are ignored keys=%s", ",".join(config.unknown_keys))
    if config.ignored_keys:
        log.warning("settings without effect here keys=%s", ",".join(config.ignored_keys))
    return config


async def _serve(config: BrokerConfig) -> None:
    broker = Broker(config)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_on_signals, broker)
        await broker.run(on_started=gc.freeze)
        nursery.cancel_scope.cancel()


async def _on_signals(broker: Broker) -> None:
    """Stop the broker at the first signal. Errors: `StoppedAtOnce` at the second; a third one finds
    nobody here, and ends the process as it would any other."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            name = signal.Signals(number).name
            if broker.stopping:
                log.warning("stopping at once signal=%s", name)
                raise StoppedAtOnce(number)
            log.info("asked to stop signal=%s", name)
            broker.stop()


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """The exceptions in a group, however deep."""
    return [
        leaf
        for error in group.exceptions
        for leaf in (_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]


if __name__ == "__main__":
    sys.exit(main())
