"""The confluent-kafka client as commands use it: options, bounded calls, errors as sentences."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import click
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from zkafka.cli.output import fail

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_BOOTSTRAP = "127.0.0.1:9092"
TIMEOUT_S = 15.0


def bootstrap_option(command: F) -> F:
    """`-b`, or KAFKA_BOOTSTRAP_SERVERS."""
    return click.option(
        "-b",
        "--bootstrap",
        envvar="KAFKA_BOOTSTRAP_SERVERS",
        default=DEFAULT_BOOTSTRAP,
        show_default=True,
        help="Brokers to start from: host:port,host:port.",
    )(command)


def json_option(command: F) -> F:
    """`--json`: the same facts for a program."""
    return click.option("--json", "json_output", is_flag=True, help="Print JSON.")(command)


def settings(bootstrap: str, **more: Any) -> dict[str, Any]:
    """A client's configuration: quiet about lost brokers, since the call's own error says it."""
    return {
        "bootstrap.servers": bootstrap,
        "client.id": "zkafka-cli",
        "logger": _quiet,
        "error_cb": lambda _error: None,
        **more,
    }


class _Quiet:
    """librdkafka's log lines go nowhere: a command that fails says why itself."""

    def log(self, *_args: object, **_kwargs: object) -> None:
        """Drop the line."""


_quiet = _Quiet()


def admin(bootstrap: str) -> AdminClient:
    """An admin client; reaching a broker is each call's business.

    Keep it in a variable until its futures are settled: they end with it.
    """
    return AdminClient(settings(bootstrap))


def call(what: str, ask: Callable[[], T]) -> T:
    """The result of `ask`, or the command ends with `what` and the broker's reason."""
    try:
        return ask()
    except TimeoutError:
        fail(f"{what}: no answer in {TIMEOUT_S:.0f} s")
    except KafkaException as error:
        reason = error.args[0]
        text = reason.str() if hasattr(reason, "str") else str(reason)
        fail(f"{what}: {text}")


def settled(what: str, future: "Future[T]") -> T:
    """The result of one future of the admin client."""
    return call(what, lambda: future.result(TIMEOUT_S))
