"""Commits, rebalances and failovers at random: nothing acknowledged is ever forgotten."""

import random

import pytest
import trio
from coordinator_scene import CoordinatorScene

from zkafka.errors import ErrorCode
from zkafka.model import OFFSETS_TOPIC, TopicPartition

GROUPS = ["a", "b", "c"]
ORDERS_0 = ("orders", 0)


class Witness:
    """Knows, for each group, the last commit acknowledged and those whose fate is open."""

    def __init__(self):
        self.acknowledged = dict.fromkeys(GROUPS, -1)
        self.open = {group: set() for group in GROUPS}
        self.next_offset = 0

    async def commit(self, scene, group, member_id, generation):
        # Offsets grow, and one commit per group is under way at a time: so what may be seen is
        # the last acknowledged or one of the later ones whose fate is open.
        self.next_offset += 1
        offset = self.next_offset
        self.open[group].add(offset)
        (code,) = await scene.commit({ORDERS_0: offset}, member_id, generation, group=group)
        if code is ErrorCode.NONE:
            self.acknowledged[group] = offset
            self.open[group] = set()
        return code

    def judge(self, scene):
        for group in GROUPS:
            fetched = scene.fetch(ORDERS_0, group=group)[ORDERS_0]
            later = {o for o in self.open[group] if o > self.acknowledged[group]}
            assert fetched in {self.acknowledged[group], *later}, f"{group} forgot a commit"


@pytest.mark.parametrize("seed", range(12))
async def test_nothing_acknowledged_is_forgotten_over_failovers(autojump_clock, seed):
    rnd = random.Random(seed)
    witness = Witness()
    members = {}
    logs = {}
    for _ in range(4):
        async with CoordinatorScene(logs).running() as scene:
            witness.judge(scene)
            for _ in range(15):
                group = rnd.choice(GROUPS)
                member, generation = members.get(group, ("", -1))
                scene.replicas.lag = rnd.random() < 0.3
                match rnd.randrange(4):
                    case 0 if not scene.replicas.lag:
                        # Somebody new takes over; who was there is fenced by its generation.
                        if group in members:
                            scene.leave(member, group=group)
                        members[group] = await scene.member(group=group)
                        stale = await scene.commit(
                            {ORDERS_0: 10**6}, member, generation, group=group
                        )
                        assert stale[0] is not ErrorCode.NONE, "a stale generation was accepted"
                    case 1:
                        scene.replicas.refusal = rnd.choice(
                            [ErrorCode.NOT_ENOUGH_REPLICAS, ErrorCode.KAFKA_STORAGE_ERROR]
                        )
                        code = await witness.commit(scene, group, member, generation)
                        assert code is not ErrorCode.NONE
                        scene.replicas.refusal = None
                    case 2:
                        await trio.sleep(rnd.random())
                        for partition in range(4):
                            scene.replicas.replicate(partition)
                    case _:
                        await witness.commit(scene, group, member, generation)
                for name, (known, current) in members.items():
                    if scene.heartbeat(known, current, group=name) is not ErrorCode.NONE:
                        # Fallen out of its session, or of its generation by a failed write.
                        members[name] = ("", -1)
                        members.pop(name)
                        break
                scene.groups.check()
                witness.judge(scene)
        # What was not replicated is lost with the leader, or not, as it happens.
        for partition in range(4):
            log = logs.setdefault(
                TopicPartition(OFFSETS_TOPIC, partition), scene.replicas.lead(partition)
            )
            if rnd.random() < 0.7:
                log.truncate_to(log.high_watermark)
            log.high_watermark = log.log_end_offset
