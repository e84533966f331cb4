"""`zkafka`: topics, groups, records and znodes of any Kafka cluster from a terminal."""

import logging

import click
from click.shell_completion import get_completion_class

import zkafka
from zkafka.cli import groups, inspect, records, topics, znodes
from zkafka.cli.output import fail


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(zkafka.__version__, prog_name="zkafka", message="%(prog)s %(version)s")
def main() -> None:
    """Look at a Kafka cluster and change it: topics, groups, records, znodes.

    Every command takes -b HOST:PORT (or KAFKA_BOOTSTRAP_SERVERS) and --json.
    """
    # A command that fails says why in one sentence; libraries' logs would bury it.
    logging.basicConfig(level=logging.CRITICAL)


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for SHELL: eval "$(zkafka completion bash)"."""
    completer = get_completion_class(shell)
    if completer is None:
        fail(f"no completion for {shell}")
    click.echo(completer(main, {}, "zkafka", "_ZKAFKA_COMPLETE").source())


main.add_command(records.produce)
main.add_command(records.consume)
main.add_command(topics.topics)
main.add_command(groups.groups)
main.add_command(inspect.cluster)
main.add_command(znodes.znodes)

if __name__ == "__main__":
    main(prog_name="zkafka")
