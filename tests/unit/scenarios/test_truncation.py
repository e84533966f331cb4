"""Plays the scripts in `truncation/`: where two logs part, and how they meet again.

A script is a list of commands, each followed by `----` and by what it must print. Brokers are real
ones over real logs; nothing runs by itself, so the script decides who fetches when.

    cluster N [min-isr=M]            brokers 1..N with one partition
    assign LEADER [isr=1,2] [tell=1,2]   a new leader epoch; told to all that are up, or to some
    append B VALUE...                one batch per value, to the leader B (acks=1)
    fetch B [times=N] [answer=lost]  one round of follower B's real fetcher
    checkpoint B                     B writes its high watermark down
    stop B / crash B [keep=OFFSET] / start B     with keep, what is above was not on the disk yet
    delete B OFFSET                  DeleteRecords at the leader
    consume B OFFSET [epoch=E] [fetched=E]       a consumer's Fetch; epochs as in KIP-320
    logs                             who has what: epoch:value, `|` stands at the high watermark

After a change of behaviour, `ZKAFKA_REWRITE=1 pytest tests/unit/scenarios/test_truncation.py`
writes the new outcomes into the scripts. Review them as you would review code.
"""

import os
from pathlib import Path

import pytest
import trio
from replication_world import TP, Link, PartitionFetch, World

from zkafka.errors import PeerUnreachable
from zkafka.protocol.records import iter_records, parse_batches

SCRIPTS = sorted((Path(__file__).parent / "truncation").glob("*.txt"))
REWRITE = os.environ.get("ZKAFKA_REWRITE") == "1"


class Play:
    def __init__(self, path):
        self.path = path
        self.world = None

    async def do(self, line):
        name, *words = line.split()
        plain = [word for word in words if "=" not in word]
        named = dict(word.split("=", 1) for word in words if "=" in word)
        return await getattr(self, f"do_{name}")(*plain, **named) or "ok"

    async def do_cluster(self, count, **named):
        self.world = World(self.path, int(count), min_insync_replicas=named.get("min-isr", 1))

    async def do_assign(self, leader, isr=None, tell=None):
        answers = await self.world.assign(int(leader), isr=numbers(isr), tell=numbers(tell))
        epoch = self.world.states[TP].leader_epoch
        refused = [f"{b} answers {code.name}" for b, code in answers.items() if code]
        return "\n".join([f"epoch {epoch}: {leader} leads, told {sorted(answers)}", *refused])

    async def do_append(self, broker, *values):
        broker = self.world[int(broker)]
        results = [broker.produce(value, acks=1) for value in values]
        first, last = results[0].base_offset, results[-1].last_offset
        return f"offsets {first}..{last} in epoch {results[0].leader_epoch}"

    async def do_fetch(self, broker, times="1", answer="arrives"):
        broker = self.world[int(broker)]
        said = []
        for _ in range(int(times)):
            fetcher = broker.replicas.fetchers._home.get(TP)
            if fetcher is None:
                return "follows nobody"
            if not len(fetcher):
                return "gave up"
            fetcher._resume_paused()
            before = self.values(broker)
            link = Link(self.world, broker, fetcher.leader)
            self.world.on_answer = lose if answer == "lost" else None
            try:
                with trio.CancelScope() as scope:
                    response = await fetcher._ask(link, scope, 0)
                await fetcher._finish(link, response)
            except PeerUnreachable:
                fetcher._session.lost()
                said.append("no answer")
                continue
            after = self.values(broker)
            common = 0
            while common < min(len(before), len(after)) and before[common] == after[common]:
                common += 1
            cut, got = before[common:], after[common:]
            said.append(
                "; ".join(
                    part
                    for part in (
                        f"cut {' '.join(cut)}" if cut else "",
                        f"got {' '.join(got)}" if got else "",
                    )
                    if part
                )
                or "nothing new"
            )
            for paused in fetcher._paused.values():
                paused.retry_ms = 0
        return "\n".join(said)

    async def do_checkpoint(self, broker):
        await self.world[int(broker)].replicas.checkpoint()

    async def do_stop(self, broker):
        broker = self.world[int(broker)]
        await broker.replicas.checkpoint()
        for directory in broker.log_dirs:
            directory.close(clean=True)
        self.gone(broker)

    async def do_crash(self, broker, keep=None):
        broker = self.world[int(broker)]
        if keep is not None:
            # The rest had not reached the disk. Flushed, so that it counts as what was found.
            broker.log().truncate_to(int(keep))
            broker.log().flush()
        broker.close()
        self.gone(broker)

    async def do_start(self, broker):
        broker = self.world[int(broker)]
        broker.up = True
        broker.start()
        self.world.alive.add(broker.broker_id)
        self.world.publish()

    def gone(self, broker):
        broker.up = False
        self.world.alive.remove(broker.broker_id)
        self.world.publish()

    async def do_delete(self, broker, offset):
        code, _ = await self.world[int(broker)].replicas.delete_records(TP, int(offset), 0)
        return code.name

    async def do_consume(self, broker, offset, epoch="-1", fetched="-1"):
        read = self.world[int(broker)].replicas.read(
            PartitionFetch(
                TP,
                int(offset),
                1 << 20,
                current_leader_epoch=int(epoch),
                last_fetched_epoch=int(fetched),
            ),
            max_bytes=1 << 20,
            at_least_one=True,
        )
        if read.diverging is not None:
            epoch, end = read.diverging
            return f"diverging: epoch {epoch} ends at {end}"
        if read.slice is None:
            return read.error.name
        data = read.slice.read()
        read.slice.release()
        return " ".join(
            record.value.decode() for batch in parse_batches(data) for record in iter_records(batch)
        )

    async def do_logs(self):
        return "\n".join(
            f"{broker_id}: {self.log(broker)}" for broker_id, broker in self.world.brokers.items()
        )

    def values(self, broker):
        """`epoch:value` for every record in the log."""
        log = broker.log()
        found, offset = [], log.log_start_offset
        while (
            piece := log.read(offset, 1 << 20, upper_bound=log.log_end_offset, at_least_one=True)
        ) is not None:
            data = piece.read()
            piece.release()
            for batch in parse_batches(data):
                offset = batch.last_offset + 1
                found += [
                    f"{batch.leader_epoch}:{record.value.decode()}"
                    for record in iter_records(batch)
                    if record.offset >= log.log_start_offset
                ]
        return found

    def log(self, broker):
        if not broker.up:
            return "down"
        machine, log = broker.machine(), broker.log()
        machine.check()
        words = self.values(broker)
        words.insert(machine.high_watermark - log.log_start_offset, "|")
        start = f"from {log.log_start_offset}: " if log.log_start_offset else ""
        role = {"leader": "leads", "follower": "follows", "waiting": "waits"}[machine.role.value]
        return f"{start}{' '.join(words)}  ({role} in epoch {machine.leader_epoch})"


def lose(_source, _request, _response):
    raise PeerUnreachable("the answer was lost")


def numbers(text):
    return None if text is None else [int(word) for word in text.split(",")]


def blocks(text):
    """(lines before the command, command, outcome) for each."""
    found, before, command, outcome = [], [], None, None
    for line in [*text.splitlines(), ""]:
        if outcome is not None:
            if line:
                outcome.append(line)
                continue
            found.append((before, command, "\n".join(outcome)))
            before, command, outcome = [], None, None
        if line == "----":
            outcome = []
        elif command is None and line and not line.startswith("#"):
            command = line
        elif command is None and (line or before):
            before.append(line)
    return found


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
async def test_script(path, tmp_path, autojump_clock):
    play = Play(tmp_path)
    written = []
    for before, command, outcome in blocks(path.read_text()):
        happened = await play.do(command)
        written += [*before, command, "----", happened, ""]
        if not REWRITE:
            assert happened == outcome, f"{path.name}: {command}"
    assert written, f"{path.name} says nothing"
    if REWRITE:
        path.write_text("\n".join(written[:-1]) + "\n")
    for broker in play.world.brokers.values():
        if broker.up:
            broker.close()
    # Nothing was left running that could have helped.
    assert trio.current_time() < 60
