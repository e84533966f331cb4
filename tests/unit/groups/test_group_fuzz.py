"""A group that lives through anything: random events, all invariants after each."""

import random

import pytest
from group_scene import Scene, protocols

from zkafka.errors import ErrorCode
from zkafka.groups.events import CoordinatorResigned, GroupState, LeavingMember
from zkafka.groups.group import Group, GroupSettings

SPEAKS = [protocols(a=b"1"), protocols(a=b"1", b=b"2"), protocols(b=b"2", a=b"1")]
INSTANCES = [None, None, "one", "two"]
ERRORS = [
    ErrorCode.NONE,
    ErrorCode.NONE,
    ErrorCode.NOT_COORDINATOR,
    ErrorCode.REBALANCE_IN_PROGRESS,
]


class Life:
    """What may happen to a group, drawn from one seed."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        choose = self.random.choice
        self.scene = Scene(
            log_works=False,
            initial_rebalance_delay_ms=choose([0, 3_000]),
            max_size=choose([3, 100]),
        )
        self.accepted = []

    def member(self):
        """Mostly somebody who is there, sometimes somebody who was."""
        group = self.scene.group
        known = [*group.members, *group.pending_members]
        if self.random.random() < 0.2 or not known:
            known = [a.member_id for a in self.scene.answers.values() if hasattr(a, "leader")]
        return self.random.choice(known or ["nobody"])

    def instance_of(self, member_id):
        member = self.scene.group.members.get(member_id)
        if member is None or self.random.random() < 0.1:
            return self.random.choice(INSTANCES)
        return member.group_instance_id

    def generation(self):
        return self.scene.group.generation - (self.random.random() < 0.1)

    def happen(self):
        scene, rnd = self.scene, self.random
        match rnd.randrange(11):
            case 0:
                scene.join(
                    speaks=rnd.choice(SPEAKS),
                    version=rnd.choice([3, 4, 9]),
                    group_instance_id=rnd.choice(INSTANCES),
                    rebalance_timeout_ms=rnd.choice([0, 5_000, 60_000]),
                )
            case 1 | 2:
                member = self.member()
                scene.join(
                    member,
                    speaks=rnd.choice(SPEAKS),
                    version=9,
                    group_instance_id=self.instance_of(member),
                )
            case 3:
                # Everybody who is not waiting heeds the call to rejoin.
                for member in list(scene.group.members.values()):
                    if member.join_token is None and member.member_id in scene.group.members:
                        scene.join(
                            member.member_id,
                            speaks=member.protocols,
                            group_instance_id=member.group_instance_id,
                        )
            case 4 | 5:
                member = scene.group.leader or "nobody"
                if rnd.random() < 0.5:
                    member = self.member()
                scene.sync(
                    member,
                    self.generation(),
                    group_instance_id=self.instance_of(member),
                    assignments={m: m.encode() for m in scene.group.members},
                )
            case 6:
                member = self.member()
                scene.heartbeat(
                    member, self.generation(), group_instance_id=self.instance_of(member)
                )
            case 7:
                self.commit()
            case 8:
                member = self.member()
                if rnd.random() < 0.3:
                    scene.leave(LeavingMember("", rnd.choice(INSTANCES)))
                else:
                    scene.leave(LeavingMember(member, self.instance_of(member)))
            case 9:
                scene.pass_ms(rnd.choice([1, 2_000, 2_000, 7_000, 30_000]))
            case 10:
                scene.persist(rnd.choice(ERRORS))

    def commit(self):
        member = self.member()
        generation = self.random.choice([-1, 0, self.scene.group.generation - 1, self.generation()])
        group = self.scene.group
        error = self.scene.commit(member, generation)
        if not error:
            if group.members:
                assert generation == group.generation, "a stale generation was accepted"
                assert member in group.members
            else:
                assert generation < 0


@pytest.mark.parametrize("seed", range(60))
def test_a_group_keeps_its_invariants_whatever_happens(seed):
    life = Life(seed)
    for _ in range(150):
        life.happen()
    scene = life.scene
    waiting = [token for token in scene.given if scene.waits(token)]
    parked = {
        token
        for member in scene.group.members.values()
        for token in (member.join_token, member.sync_token)
    }
    assert set(waiting) <= parked, "somebody waits for nothing"
    scene.step(CoordinatorResigned())
    assert scene.given == scene.answers.keys(), "somebody was never answered"


@pytest.mark.parametrize("seed", range(30))
def test_a_group_left_alone_comes_to_rest_empty(seed):
    life = Life(seed)
    for _ in range(80):
        life.happen()
    scene = life.scene
    scene.log_works = True
    scene.persist()
    scene.pass_ms(3_600_000)
    assert scene.group.state is GroupState.EMPTY
    assert scene.group.next_deadline_ms is None
    assert scene.given == scene.answers.keys()


@pytest.mark.parametrize("seed", range(30))
def test_what_the_log_has_is_a_group_that_can_go_on(seed):
    life = Life(seed)
    for _ in range(100):
        life.happen()
    generations = [value.generation for value in life.scene.written]
    assert generations == sorted(generations), "the log's generations go back"
    for value in life.scene.written:
        scene = Scene(Group.from_value("readers", value, GroupSettings(), 0))
        scene.group.check()
        assert bool(value.members) == (scene.group.state is GroupState.STABLE)
        for member in value.members:
            instance = {"group_instance_id": member.group_instance_id}
            assert not scene.heartbeat(member.member_id, value.generation, **instance)
