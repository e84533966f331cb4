"""The classic group protocol, scene by scene."""

import pytest
from group_scene import DELAY_MS, RANGE, REBALANCE_MS, SESSION_MS, Scene, protocols

from zkafka.errors import ErrorCode
from zkafka.groups.events import (
    CoordinatorResigned,
    GroupDeleted,
    GroupState,
    LeavingMember,
    TimePassed,
)
from zkafka.groups.group import NEW_MEMBER_JOIN_TIMEOUT_MS, Group, GroupSettings

EMPTY = GroupState.EMPTY
PREPARING = GroupState.PREPARING_REBALANCE
COMPLETING = GroupState.COMPLETING_REBALANCE
STABLE = GroupState.STABLE
DEAD = GroupState.DEAD

STICKY_TOO = protocols(sticky=b"s", range=b"r")


def subscription(*topics):
    body = b"".join(len(t).to_bytes(2) + t.encode() for t in topics)
    return b"\0\1" + len(topics).to_bytes(4) + body + b"rest that version 0 does not know"


@pytest.fixture
def scene():
    return Scene()


# Joining.


def test_the_first_member_leads_and_is_told_all_members(scene):
    first, second = scene.stable("a", "b")
    assert scene.group.leader == first
    assert scene.group.state is STABLE
    assert [scene.group.members[m].assignment for m in (first, second)] == [b"a", b"b"]


def test_only_the_leader_is_told_the_members(scene):
    token = scene.join()
    joined = scene.answers[token]
    assert joined.leader == joined.member_id
    assert [(m.member_id, m.metadata) for m in joined.members] == [(joined.member_id, b"topics")]
    other = scene.join()
    again = scene.join(joined.member_id)
    assert len(scene.answers[again].members) == 2
    assert scene.answers[other].members == ()
    assert scene.answers[other].leader == joined.member_id


def test_member_ids_are_the_clients_name_and_a_random_part(scene):
    token = scene.join(client="reader")
    assert scene.answers[token].member_id == "reader-00000000-0000-0000-0000-000000000001"
    static = scene.join(group_instance_id="host-1")
    assert static not in scene.answers
    (_, second) = scene.group.members
    assert second == "host-1-00000000-0000-0000-0000-000000000002"


def test_a_member_id_made_of_an_endless_name_still_fits_a_record(scene):
    token = scene.join(client="é" * 30_000)
    assert len(scene.answers[token].member_id.encode()) <= 32_767


@pytest.mark.parametrize("timeout_ms", [-1, 0, 5_999, 1_800_001])
def test_a_session_timeout_out_of_bounds_is_refused(scene, timeout_ms):
    token = scene.join(session_timeout_ms=timeout_ms)
    assert scene.error(token) is ErrorCode.INVALID_SESSION_TIMEOUT
    assert scene.group.is_vacant


@pytest.mark.parametrize("timeout_ms", [6_000, 1_800_000])
def test_the_bounds_of_the_session_timeout_are_allowed(scene, timeout_ms):
    assert not scene.error(scene.join(session_timeout_ms=timeout_ms))


@pytest.mark.parametrize("bad", [{"kind": ""}, {"speaks": ()}])
def test_the_first_member_must_name_a_protocol(scene, bad):
    assert scene.error(scene.join(**bad)) is ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert scene.group.is_vacant


@pytest.mark.parametrize("bad", [{"kind": "connect"}, {"speaks": protocols(other=b"")}])
def test_a_member_that_speaks_nothing_in_common_is_refused(scene, bad):
    scene.stable("a")
    assert scene.error(scene.join(**bad)) is ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert scene.group.state is STABLE


def test_an_unknown_member_id_is_refused(scene):
    scene.stable("a")
    assert scene.error(scene.join("nobody")) is ErrorCode.UNKNOWN_MEMBER_ID
    assert scene.error(scene.join("nobody", version=9)) is ErrorCode.UNKNOWN_MEMBER_ID


def test_a_member_id_is_refused_by_an_empty_group(scene):
    assert scene.error(scene.join("nobody")) is ErrorCode.UNKNOWN_MEMBER_ID
    assert scene.group.is_vacant


# MEMBER_ID_REQUIRED (KIP-394).


def test_a_new_member_is_sent_back_with_an_id_since_version_4(scene):
    token = scene.join(version=4)
    assert scene.error(token) is ErrorCode.MEMBER_ID_REQUIRED
    member_id = scene.answers[token].member_id
    assert list(scene.group.pending_members) == [member_id]
    assert scene.group.state is EMPTY
    assert not scene.error(scene.join(member_id, version=4))
    assert list(scene.group.members) == [member_id]
    assert not list(scene.group.pending_members)


def test_a_pending_member_holds_up_the_join_phase_for_one_session(scene):
    member, *_ = scene.stable("a")
    scene.join(version=4)
    scene.leave("nobody")
    again = scene.join(member, speaks=STICKY_TOO)
    assert scene.waits(again)
    scene.pass_ms(SESSION_MS - 1)
    assert scene.waits(again)
    scene.pass_ms(1)
    assert scene.answers[again].generation == 2


def test_a_pending_member_that_leaves_holds_up_nobody(scene):
    member, *_ = scene.stable("a")
    pending = scene.answers[scene.join(version=4)].member_id
    again = scene.join(member, speaks=STICKY_TOO)
    assert scene.waits(again)
    assert scene.leave(pending).members == (ErrorCode.NONE,)
    assert not scene.error(again)


def test_a_pending_id_is_no_members_id(scene):
    pending = scene.answers[scene.join(version=4)].member_id
    assert scene.heartbeat(pending, 0) is ErrorCode.UNKNOWN_MEMBER_ID
    assert scene.error(scene.sync(pending, 0)) is ErrorCode.UNKNOWN_MEMBER_ID
    token = scene.join(pending, group_instance_id="i", version=5)
    assert scene.error(token) is ErrorCode.UNKNOWN_MEMBER_ID


def test_a_pending_id_expires(scene):
    pending = scene.answers[scene.join(version=4)].member_id
    scene.pass_ms(SESSION_MS)
    assert scene.group.is_vacant
    assert scene.error(scene.join(pending, version=4)) is ErrorCode.UNKNOWN_MEMBER_ID


# The initial delay.


def test_the_first_rebalance_waits_for_the_initial_delay():
    scene = Scene(initial_rebalance_delay_ms=DELAY_MS)
    token = scene.join()
    scene.pass_ms(DELAY_MS - 1)
    assert scene.waits(token)
    scene.pass_ms(1)
    assert scene.answers[token].generation == 1


def test_newcomers_extend_the_initial_delay_up_to_the_rebalance_timeout():
    scene = Scene(initial_rebalance_delay_ms=DELAY_MS)
    tokens = [scene.join(rebalance_timeout_ms=8_000)]
    for _ in range(2):
        scene.pass_ms(2_000)
        tokens.append(scene.join(rebalance_timeout_ms=8_000))
    # Looked at after 3 s and extended by 3 s; after 6 s, by the 2 s that are left of 8.
    scene.pass_ms(7_999 - 4_000)
    assert all(scene.waits(token) for token in tokens)
    scene.pass_ms(1)
    assert {scene.answers[token].generation for token in tokens} == {1}


def test_without_newcomers_the_initial_delay_is_not_extended():
    scene = Scene(initial_rebalance_delay_ms=DELAY_MS)
    early = scene.join()
    scene.pass_ms(1_000)
    late = scene.join()
    scene.pass_ms(2_000)
    assert scene.waits(early)  # `late` came within the first delay
    scene.pass_ms(3_000)
    assert not scene.error(early)
    assert not scene.error(late)


# Votes.


def test_the_protocol_with_most_votes_among_common_ones_is_chosen(scene):
    ab = protocols(a=b"", b=b"")
    ba = protocols(b=b"", a=b"")
    cab = protocols(c=b"", a=b"", b=b"")
    first = scene.answers[scene.join(speaks=ab)].member_id
    scene.join(speaks=ba)
    scene.join(speaks=cab)
    scene.join(first, speaks=ab)
    assert scene.group.protocol_name == "a"


def test_of_equally_many_votes_the_longest_standing_members_count(scene):
    first = scene.answers[scene.join(speaks=protocols(a=b"", b=b""))].member_id
    scene.join(speaks=protocols(b=b"", a=b""))
    scene.join(first, speaks=protocols(a=b"", b=b""))
    assert scene.group.protocol_name == "a"


# Rebalances.


def test_a_newcomer_has_the_others_rejoin(scene):
    (member,) = scene.stable("a")
    token = scene.join()
    assert scene.group.state is PREPARING
    assert scene.waits(token)
    assert scene.heartbeat(member) is ErrorCode.REBALANCE_IN_PROGRESS
    rejoined = scene.join(member)
    assert scene.answers[token].generation == scene.answers[rejoined].generation == 2


def test_who_does_not_rejoin_in_time_is_out(scene):
    member, other = scene.stable("a", "b")
    token = scene.join(other, speaks=STICKY_TOO)
    for _ in range(10):
        scene.pass_ms(SESSION_MS * 2 // 3)
        scene.heartbeat(member)
    assert not scene.waits(token)
    assert list(scene.group.members) == [other]
    assert scene.group.leader == other
    assert scene.heartbeat(member) is ErrorCode.UNKNOWN_MEMBER_ID


def test_the_rebalance_timeout_is_the_largest_of_all_members(scene):
    member = scene.answers[scene.join(rebalance_timeout_ms=1_000)].member_id
    scene.sync_all({})
    scene.join(rebalance_timeout_ms=7_000)
    scene.pass_ms(6_999)
    assert scene.heartbeat(member) is ErrorCode.REBALANCE_IN_PROGRESS
    scene.pass_ms(1)
    assert scene.group.state is COMPLETING
    assert member not in scene.group.members


def test_a_leader_that_rejoins_a_stable_group_rebalances_it(scene):
    leader, other = scene.stable("a", "b")
    token = scene.join(leader)
    assert scene.waits(token)
    assert scene.group.state is PREPARING
    scene.join(other)
    assert scene.answers[token].generation == 3


def test_a_follower_that_rejoins_a_stable_group_unchanged_is_told_the_generation(scene):
    _, other = scene.stable("a", "b")
    generation = scene.group.generation
    answer = scene.answers[scene.join(other)]
    assert (answer.error, answer.generation, answer.members) == (0, generation, ())
    assert scene.group.state is STABLE


def test_changed_metadata_rebalances_a_stable_group(scene):
    _, other = scene.stable("a", "b")
    assert scene.waits(scene.join(other, speaks=protocols(range=b"other topics")))
    assert scene.group.state is PREPARING


def test_a_lost_join_response_is_sent_again(scene):
    leader, other = scene.stable("a", "b")
    scene.join(leader)
    scene.join(other)
    assert scene.group.state is COMPLETING
    again = scene.answers[scene.join(leader)]
    assert len(again.members) == 2
    assert again.generation == scene.group.generation
    assert scene.answers[scene.join(other)].members == ()
    assert scene.group.state is COMPLETING


def test_changed_metadata_while_assigning_rebalances_and_refuses_who_waits_for_it(scene):
    leader, other = scene.stable("a", "b")
    scene.join(leader)
    scene.join(other)
    waiting = scene.sync(other)
    assert scene.waits(waiting)
    scene.join(leader, speaks=STICKY_TOO)
    assert scene.error(waiting) is ErrorCode.REBALANCE_IN_PROGRESS
    assert scene.group.state is PREPARING


def test_a_second_join_of_a_waiting_member_takes_the_place_of_the_first(scene):
    leader, other = scene.stable("a", "b")
    first = scene.join(leader)
    second = scene.join(leader)
    assert scene.error(first) is ErrorCode.REBALANCE_IN_PROGRESS
    scene.join(other)
    assert not scene.error(second)


def test_a_generation_ends_as_empty_with_one_more_when_nobody_is_left(scene):
    (member,) = scene.stable("a")
    scene.leave(member)
    assert scene.group.state is EMPTY
    assert scene.group.generation == 2
    assert scene.group.protocol_name is None
    assert scene.group.protocol_type == "consumer"
    assert scene.written[-1].members == []
    assert scene.written[-1].generation == 2


# Size.


def test_a_full_group_refuses_newcomers():
    scene = Scene(max_size=2)
    first, _ = scene.stable("a", "b")
    assert scene.error(scene.join()) is ErrorCode.GROUP_MAX_SIZE_REACHED
    assert scene.group.state is STABLE
    assert scene.waits(scene.join(first))


def test_a_group_over_its_size_keeps_those_that_rejoin_first():
    small = GroupSettings(initial_rebalance_delay_ms=0, max_size=1)
    full = Scene()
    first, second = full.stable("a", "b")
    scene = Scene(Group.from_value("readers", full.written[-1], small, 0))
    assert scene.waits(scene.join(second, speaks=protocols(range=b"new")))
    assert scene.error(scene.join(first)) is ErrorCode.GROUP_MAX_SIZE_REACHED
    assert list(scene.group.members) == [second]
    assert scene.group.state is COMPLETING


# Syncing.


def test_nobody_is_assigned_anything_before_it_is_in_the_log():
    scene = Scene(log_works=False)
    member = scene.answers[scene.join()].member_id
    token = scene.sync(member, assignments={member: b"mine", "stranger": b"not here"})
    assert scene.waits(token)
    assert scene.group.state is COMPLETING
    assert [(m.member_id, m.assignment) for m in scene.written[-1].members] == [(member, b"mine")]
    scene.persist()
    assert scene.answers[token].assignment == b"mine"
    assert scene.group.state is STABLE


def test_a_member_that_the_leader_forgot_gets_an_empty_assignment(scene):
    leader, other = scene.stable("a", "b")
    scene.join(leader)
    scene.join(other)
    token = scene.sync(other)
    scene.sync(leader, assignments={leader: b"all"})
    assert scene.answers[token].assignment == b""
    assert not scene.error(token)


def test_an_assignment_that_cannot_be_written_is_an_error_for_all_and_a_rebalance():
    scene = Scene()
    leader, other = scene.stable("a", "b")
    scene.join(leader)
    scene.join(other)
    scene.log_works = False
    tokens = [scene.sync(other), scene.sync(leader, assignments={leader: b"x"})]
    scene.persist(ErrorCode.COORDINATOR_NOT_AVAILABLE)
    assert {scene.error(t) for t in tokens} == {ErrorCode.COORDINATOR_NOT_AVAILABLE}
    assert scene.group.state is PREPARING
    assert all(m.assignment == b"" for m in scene.group.members.values())


def test_a_rebalance_overtakes_an_assignment_being_written():
    scene = Scene(log_works=False)
    member = scene.answers[scene.join()].member_id
    token = scene.sync(member, assignments={member: b"old"})
    newcomer = scene.join()
    assert scene.error(token) is ErrorCode.REBALANCE_IN_PROGRESS
    scene.join(member)
    assert scene.group.generation == 2
    scene.persist()  # that of the first generation
    assert scene.group.state is COMPLETING
    assert scene.answers[newcomer].generation == 2


def test_a_second_sync_of_the_leader_writes_nothing_new():
    scene = Scene(log_works=False)
    member = scene.answers[scene.join()].member_id
    first = scene.sync(member, assignments={member: b"1"})
    second = scene.sync(member, assignments={member: b"2"})
    assert scene.error(first) is ErrorCode.REBALANCE_IN_PROGRESS
    assert len(scene.written) == 1
    scene.persist()
    assert scene.answers[second].assignment == b"1"


def test_a_sync_of_a_stable_group_is_told_the_assignment_again(scene):
    leader, _ = scene.stable("a", "b")
    answer = scene.answers[scene.sync(leader)]
    assert (answer.assignment, answer.protocol_type, answer.protocol_name) == (
        b"a", "consumer", "range",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"member_id": "nobody"}, ErrorCode.UNKNOWN_MEMBER_ID),
        ({"generation": 0}, ErrorCode.ILLEGAL_GENERATION),
        ({"generation": 2}, ErrorCode.ILLEGAL_GENERATION),
        ({"protocol_type": "connect"}, ErrorCode.INCONSISTENT_GROUP_PROTOCOL),
        ({"protocol_name": "sticky"}, ErrorCode.INCONSISTENT_GROUP_PROTOCOL),
        ({"group_instance_id": "i"}, ErrorCode.UNKNOWN_MEMBER_ID),
    ],
)
def test_a_sync_in_a_wrong_name_is_refused(scene, wrong, error):
    (member,) = scene.stable("a")
    assert scene.error(scene.sync(**{"member_id": member, **wrong})) is error


def test_a_sync_may_name_the_right_protocol(scene):
    (member,) = scene.stable("a")
    token = scene.sync(member, protocol_type="consumer", protocol_name="range")
    assert not scene.error(token)


def test_a_sync_while_a_rebalance_is_prepared_is_told_so(scene):
    (member,) = scene.stable("a")
    scene.join()
    assert scene.error(scene.sync(member)) is ErrorCode.REBALANCE_IN_PROGRESS


def test_who_does_not_sync_within_the_rebalance_timeout_is_out(scene):
    leader, other = scene.stable("a", "b")
    scene.join(leader)
    scene.join(other)
    waiting = scene.sync(other)
    for _ in range(10):
        scene.pass_ms(SESSION_MS * 2 // 3)
        scene.heartbeat(leader)
    assert scene.error(waiting) is ErrorCode.REBALANCE_IN_PROGRESS
    assert list(scene.group.members) == [other]
    assert scene.group.state is PREPARING


def test_who_syncs_not_even_in_a_stable_group_is_out(scene):
    leader, other = scene.stable("a", "b")
    scene.join(leader)
    scene.join(other)
    scene.sync(leader)
    assert scene.group.state is STABLE
    for _ in range(10):
        scene.pass_ms(SESSION_MS * 2 // 3)
        scene.heartbeat(leader)
        scene.heartbeat(other)
    assert list(scene.group.members) == [leader]


# Heartbeats and sessions.


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"member_id": "nobody"}, ErrorCode.UNKNOWN_MEMBER_ID),
        ({"generation": 0}, ErrorCode.ILLEGAL_GENERATION),
        ({"generation": 7}, ErrorCode.ILLEGAL_GENERATION),
        ({"group_instance_id": "i"}, ErrorCode.UNKNOWN_MEMBER_ID),
        ({}, ErrorCode.NONE),
    ],
)
def test_heartbeats_are_judged_by_member_and_generation(scene, wrong, error):
    (member,) = scene.stable("a")
    assert scene.heartbeat(**{"member_id": member, **wrong}) is error


def test_a_heartbeat_to_an_empty_group_is_from_an_unknown_member(scene):
    assert scene.heartbeat("nobody", 0) is ErrorCode.UNKNOWN_MEMBER_ID


def test_heartbeats_are_welcome_while_the_leader_assigns(scene):
    member = scene.answers[scene.join()].member_id
    assert scene.group.state is COMPLETING
    assert scene.heartbeat(member) is ErrorCode.NONE


def test_a_silent_member_expires_and_the_others_rebalance(scene):
    leader, other = scene.stable("a", "b")
    scene.pass_ms(SESSION_MS - 1)
    assert not scene.heartbeat(other)
    scene.pass_ms(1)
    assert list(scene.group.members) == [other]
    assert scene.group.leader == other
    assert scene.group.state is PREPARING
    assert leader not in scene.group.members


@pytest.mark.parametrize("sign", ["heartbeat", "commit", "sync", "join"])
def test_every_sign_of_life_begins_the_session_anew(scene, sign):
    _, member = scene.stable("a", "b")
    scene.pass_ms(SESSION_MS - 1)
    generation = scene.group.generation
    leader = scene.group.leader
    scene.heartbeat(leader)
    match sign:
        case "heartbeat":
            scene.heartbeat(member)
        case "commit":
            scene.commit(member, generation)
        case "sync":
            scene.sync(member)
        case "join":
            scene.join(member)
    scene.pass_ms(SESSION_MS - 1)
    assert member in scene.group.members
    scene.pass_ms(1)
    assert member not in scene.group.members


def test_a_refused_heartbeat_is_no_sign_of_life(scene):
    (member,) = scene.stable("a")
    scene.pass_ms(SESSION_MS - 1)
    scene.heartbeat(member, 0)
    scene.pass_ms(1)
    assert not scene.group.members


def test_a_waiting_member_has_no_session_timer(scene):
    leader, other = scene.stable("a", "b")
    token = scene.join(leader)
    for _ in range(5):
        scene.pass_ms(SESSION_MS - 1)
        scene.heartbeat(other)
    assert scene.waits(token)
    assert leader in scene.group.members


def test_a_new_member_may_wait_five_minutes(scene):
    (leader,) = scene.stable("a", rebalance_timeout_ms=3_600_000)
    token = scene.join(rebalance_timeout_ms=3_600_000)
    for _ in range(NEW_MEMBER_JOIN_TIMEOUT_MS // 5_000):
        assert scene.waits(token)
        scene.pass_ms(5_000)
        scene.heartbeat(leader)
    assert scene.error(token) is ErrorCode.UNKNOWN_MEMBER_ID
    assert list(scene.group.members) == [leader]


def test_heartbeats_cost_no_look_at_all_members_but_deadlines_are_kept(scene):
    scene.stable("a", "b")
    scene.step(TimePassed())  # the join phase's deadline is no more
    deadline = scene.group.next_deadline_ms
    scene.pass_ms(5_000)
    for member in scene.group.members:
        scene.heartbeat(member)
    assert scene.group.next_deadline_ms == deadline
    scene.now_ms = deadline
    assert scene.step(TimePassed()) == []
    assert scene.group.next_deadline_ms == deadline + 5_000


# Leaving.


def test_who_leaves_is_gone_at_once(scene):
    leader, other = scene.stable("a", "b")
    answer = scene.leave(other)
    assert (answer.error, answer.members) == (ErrorCode.NONE, (ErrorCode.NONE,))
    assert scene.heartbeat(leader) is ErrorCode.REBALANCE_IN_PROGRESS
    assert scene.heartbeat(other) is ErrorCode.UNKNOWN_MEMBER_ID


def test_members_leave_in_a_batch_each_with_its_own_code(scene):
    leader, other = scene.stable("a", "b")
    wrong = LeavingMember(leader, "not-mine")
    answer = scene.leave(other, "nobody", wrong, other)
    assert answer.members == (
        ErrorCode.NONE,
        ErrorCode.UNKNOWN_MEMBER_ID,
        ErrorCode.UNKNOWN_MEMBER_ID,
        ErrorCode.UNKNOWN_MEMBER_ID,
    )


def test_a_waiting_member_that_leaves_is_answered(scene):
    leader, other = scene.stable("a", "b")
    joining = scene.join(leader)
    scene.leave(leader)
    assert scene.error(joining) is ErrorCode.UNKNOWN_MEMBER_ID
    scene.join(other)
    assert scene.group.leader == other
    third = scene.join()
    scene.join(other)
    syncing = scene.sync(scene.answers[third].member_id)
    scene.leave(scene.answers[third].member_id)
    assert scene.error(syncing) is ErrorCode.UNKNOWN_MEMBER_ID


def test_the_last_to_hold_up_a_rebalance_completes_it_by_leaving(scene):
    leader, other = scene.stable("a", "b")
    token = scene.join(leader)
    scene.leave(other)
    assert not scene.error(token)


# Static members (KIP-345).


@pytest.fixture
def static():
    """A stable group of two static members, `one` leading."""
    scene = Scene()
    first = scene.answers[scene.join(group_instance_id="one")].member_id
    scene.join(group_instance_id="two")
    scene.join(first, group_instance_id="one")
    scene.sync_all({m: m[:3] for m in scene.group.members})
    scene.one, scene.two = scene.group.members
    assert scene.group.state is STABLE
    assert scene.group.leader == scene.one
    return scene


@pytest.mark.parametrize("version", [5, 9])
def test_a_static_member_comes_back_without_a_rebalance(static, version):
    generation = static.group.generation
    answer = static.answers[static.join(group_instance_id="two", version=version)]
    assert answer.error is ErrorCode.NONE
    assert answer.generation == generation
    assert answer.member_id != static.two
    assert answer.members == ()
    assert not answer.skip_assignment
    assert static.group.state is STABLE
    assert static.answers[static.sync(answer.member_id)].assignment == b"two"
    assert [m.member_id for m in static.written[-1].members] == [static.one, answer.member_id]


def test_a_static_leader_that_comes_back_is_told_to_skip_the_assignment(static):
    answer = static.answers[static.join(group_instance_id="one", version=9)]
    assert answer.skip_assignment
    assert answer.leader == answer.member_id == static.group.leader
    assert [m.group_instance_id for m in answer.members] == ["one", "two"]


def test_before_version_9_a_static_leader_is_told_of_its_former_self(static):
    answer = static.answers[static.join(group_instance_id="one", version=8)]
    assert not answer.skip_assignment
    assert answer.members == ()
    assert answer.leader == static.one != answer.member_id
    assert static.group.leader == answer.member_id


def test_the_former_self_of_a_static_member_is_fenced(static):
    static.join(group_instance_id="two", version=9)
    fenced = ErrorCode.FENCED_INSTANCE_ID
    two = {"member_id": static.two, "group_instance_id": "two"}
    generation = static.group.generation
    assert static.heartbeat(**two) is fenced
    assert static.commit(**two, generation=generation) is fenced
    assert static.error(static.sync(**two)) is fenced
    assert static.error(static.join(**two)) is fenced
    assert static.leave(LeavingMember(static.two, "two")).members == (fenced,)
    # Without its instance id it is just nobody.
    assert static.heartbeat(static.two) is ErrorCode.UNKNOWN_MEMBER_ID


def test_a_waiting_former_self_is_told_that_it_is_fenced(static):
    joining = static.join(static.one, group_instance_id="one")
    newer = static.join(group_instance_id="one")
    assert static.error(joining) is ErrorCode.FENCED_INSTANCE_ID
    static.join(static.two, group_instance_id="two")
    assert not static.error(newer)
    assert static.group.state is COMPLETING
    syncing = static.sync(static.two, group_instance_id="two")
    static.join(group_instance_id="two")
    assert static.error(syncing) is ErrorCode.FENCED_INSTANCE_ID
    assert static.group.state is PREPARING


def test_a_static_member_that_changes_the_vote_rebalances(static):
    token = static.join(group_instance_id="two", speaks=STICKY_TOO, version=9)
    # Still `range`: the other member speaks nothing else.
    assert not static.error(token)
    assert static.group.state is STABLE
    static.join(static.one, group_instance_id="one", speaks=STICKY_TOO)
    static.join(static.answers[token].member_id, group_instance_id="two", speaks=STICKY_TOO)
    static.sync_all({})
    assert static.group.protocol_name == "sticky"
    assert static.waits(static.join(group_instance_id="two", speaks=RANGE, version=9))
    assert static.group.state is PREPARING


def test_a_replacement_that_cannot_be_written_is_taken_back(static):
    static.log_works = False
    token = static.join(group_instance_id="one", version=9, speaks=protocols(range=b"changed"))
    assert static.waits(token)
    static.persist(ErrorCode.NOT_COORDINATOR)
    assert static.error(token) is ErrorCode.NOT_COORDINATOR
    assert static.answers[token].member_id == ""
    assert static.group.leader == static.one
    assert static.heartbeat(static.one, group_instance_id="one") is ErrorCode.NONE
    assert static.group.members[static.one].metadata_for("range") == b"topics"


def test_a_rebalance_overtakes_a_replacement_being_written(static):
    static.log_works = False
    token = static.join(group_instance_id="two", version=9)
    static.join(static.one, group_instance_id="one")  # the leader wants another assignment
    assert static.answers[token].generation == static.group.generation
    assert static.group.state is COMPLETING
    static.persist(ErrorCode.NOT_COORDINATOR)
    assert static.group.state is COMPLETING


def test_of_two_replacements_being_written_the_first_is_fenced(static):
    static.log_works = False
    first = static.join(group_instance_id="two", version=9)
    second = static.join(group_instance_id="two", version=9)
    assert static.error(first) is ErrorCode.FENCED_INSTANCE_ID
    static.persist()
    assert not static.error(second)


def test_a_static_member_stays_though_it_does_not_rejoin_in_time(static):
    static.join(static.one, group_instance_id="one")
    for _ in range(10):
        static.pass_ms(SESSION_MS * 2 // 3)
        static.heartbeat(static.two, group_instance_id="two")
    assert static.group.state is COMPLETING
    assert list(static.group.members) == [static.one, static.two]
    assert static.heartbeat(static.two, group_instance_id="two") is ErrorCode.NONE


def test_a_join_phase_that_no_static_member_joins_goes_on(static):
    # Two static members and one that comes and leaves.
    generation = static.group.generation
    visitor = static.join(client="visitor")
    (visiting,) = [m for m in static.group.members if m.startswith("visitor")]
    static.leave(visiting)
    assert static.error(visitor) is ErrorCode.UNKNOWN_MEMBER_ID
    for _ in range(11):
        static.pass_ms(SESSION_MS * 2 // 3)
        static.heartbeat(static.one)
        static.heartbeat(static.two)
    assert static.group.state is PREPARING
    assert static.group.generation == generation
    static.join(static.two, group_instance_id="two")
    static.join(static.one, group_instance_id="one")
    assert static.group.generation == generation + 1


def test_a_static_member_expires_as_others_do(static):
    static.pass_ms(SESSION_MS - 1)
    static.heartbeat(static.one)
    static.pass_ms(1)
    assert list(static.group.members) == [static.one]
    # And may come as new afterwards.
    static.join(group_instance_id="two")
    assert len(static.group.members) == 2


def test_an_administrator_removes_a_static_member_by_its_instance_id(static):
    answer = static.leave(LeavingMember("", "two"), LeavingMember("", "three"), LeavingMember(""))
    assert answer.members == (
        ErrorCode.NONE,
        ErrorCode.UNKNOWN_MEMBER_ID,
        ErrorCode.UNKNOWN_MEMBER_ID,
    )
    assert list(static.group.members) == [static.one]


# Commits.


def test_a_member_commits_in_its_generation(scene):
    (member,) = scene.stable("a")
    assert scene.commit(member, 1) is ErrorCode.NONE


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"generation": 0}, ErrorCode.ILLEGAL_GENERATION),
        ({"generation": 2}, ErrorCode.ILLEGAL_GENERATION),
        ({"generation": -1}, ErrorCode.ILLEGAL_GENERATION),
        ({"member_id": "nobody"}, ErrorCode.UNKNOWN_MEMBER_ID),
        ({"member_id": "", "generation": -1}, ErrorCode.UNKNOWN_MEMBER_ID),
        ({"member_id": "", "generation": 1}, ErrorCode.UNKNOWN_MEMBER_ID),
        ({"group_instance_id": "i"}, ErrorCode.UNKNOWN_MEMBER_ID),
    ],
)
def test_a_commit_in_a_wrong_name_is_refused(scene, wrong, error):
    (member,) = scene.stable("a")
    assert scene.commit(**{"member_id": member, "generation": 1, **wrong}) is error


def test_anybody_commits_to_an_empty_group_without_a_generation(scene):
    assert scene.commit() is ErrorCode.NONE
    assert scene.commit("whoever") is ErrorCode.NONE
    assert scene.commit("whoever", 0) is ErrorCode.UNKNOWN_MEMBER_ID


def test_commits_are_refused_while_partitions_are_given_away(scene):
    member = scene.answers[scene.join()].member_id
    assert scene.group.state is COMPLETING
    assert scene.commit(member, 1) is ErrorCode.REBALANCE_IN_PROGRESS


def test_commits_are_welcome_while_a_rebalance_is_prepared(scene):
    (member,) = scene.stable("a")
    scene.join()
    assert scene.group.state is PREPARING
    assert scene.commit(member, 1) is ErrorCode.NONE


# The end.


def test_all_who_wait_are_told_when_the_coordinator_resigns(scene):
    leader, other = scene.stable("a", "b")
    joining = scene.join(leader)
    scene.step(CoordinatorResigned())
    assert scene.error(joining) is ErrorCode.NOT_COORDINATOR
    assert scene.group.state is DEAD
    assert scene.group.next_deadline_ms is None
    assert other not in scene.group.members


def test_a_sync_that_waits_is_told_when_the_coordinator_resigns():
    scene = Scene(log_works=False)
    member = scene.answers[scene.join()].member_id
    token = scene.sync(member, assignments={})
    scene.step(CoordinatorResigned())
    assert scene.error(token) is ErrorCode.NOT_COORDINATOR
    scene.persist()  # too late to matter
    assert scene.group.state is DEAD


def test_a_dead_group_refuses_everything(scene):
    scene.step(GroupDeleted())
    gone = ErrorCode.COORDINATOR_NOT_AVAILABLE
    assert scene.error(scene.join()) is gone
    assert scene.error(scene.sync("m", 0)) is gone
    assert scene.heartbeat("m", 0) is gone
    assert scene.commit() is gone
    assert scene.leave("m").error is gone


def test_only_an_empty_group_can_be_deleted(scene):
    scene.stable("a")
    with pytest.raises(AssertionError):
        scene.group.step(GroupDeleted(), scene.now_ms)


# From the log.


def test_a_group_comes_back_from_the_log_stable_with_fresh_sessions(static):
    value = static.written[-1]
    scene = Scene(Group.from_value("readers", value, GroupSettings(), 1_000))
    assert scene.group.state is STABLE
    assert scene.group.generation == static.group.generation
    assert scene.group.leader == static.one
    assert scene.group.protocol_name == "range"
    assert scene.heartbeat(static.two, group_instance_id="two") is ErrorCode.NONE
    assert scene.answers[scene.sync(static.one)].assignment == b"one"
    scene.pass_ms(SESSION_MS - 1)
    assert len(scene.group.members) == 2
    scene.pass_ms(1)
    assert not scene.group.members


def test_a_group_without_members_comes_back_empty_with_its_generation(scene):
    (member,) = scene.stable("a")
    scene.leave(member)
    group = Group.from_value("readers", scene.written[-1], GroupSettings(), 0)
    group.check()
    assert (group.state, group.generation, group.protocol_type) == (EMPTY, 2, "consumer")


def test_what_is_written_is_the_chosen_protocols_metadata(scene):
    scene.stable("a", speaks=STICKY_TOO)
    (written,) = scene.written
    assert written.protocol == "sticky"
    assert written.members[0].subscription == b"s"
    assert written.members[0].client_host == "/10.0.0.1"
    assert written.members[0].rebalance_timeout == REBALANCE_MS
    assert written.members[0].session_timeout == SESSION_MS


# Subscriptions, announcements.


def test_the_topics_that_consumers_subscribe_to_are_known(scene):
    scene.stable("a", speaks=protocols(range=subscription("orders", "bills")))
    assert scene.group.subscribed_topics == {"orders", "bills"}


@pytest.mark.parametrize(
    "nonsense", [b"", b"\0", b"\0\1\0\0\0\1", b"\0\1\xff\xff\xff\xff", b"\0\1\0\0\0\1\0\1\xff"]
)
def test_a_subscription_that_cannot_be_read_is_no_error(scene, nonsense):
    scene.stable("a", speaks=protocols(range=nonsense))
    assert scene.group.subscribed_topics is None


def test_of_other_kinds_of_group_nothing_is_known(scene):
    scene.stable("a", kind="connect", speaks=protocols(compatible=subscription("orders")))
    assert scene.group.subscribed_topics is None


def test_an_empty_group_of_consumers_subscribes_to_nothing(scene):
    (member,) = scene.stable("a")
    scene.leave(member)
    assert scene.group.subscribed_topics == frozenset()


def test_the_operator_is_told_every_state_and_why(scene):
    (member,) = scene.stable("a")
    scene.leave(member)
    assert [(a.state, a.generation) for a in scene.announced] == [
        (PREPARING, 0),
        (COMPLETING, 1),
        (STABLE, 1),
        (PREPARING, 1),
        (EMPTY, 2),
    ]
    assert member in scene.announced[0].reason


def test_a_clients_reason_stays_on_one_line(scene):
    scene.join(reason="first\nsecond " + "x" * 1_000)
    reason = scene.announced[0].reason
    assert "first second" in reason
    assert "\n" not in reason
    assert len(reason) < 300


def test_a_group_remembers_what_happened_to_it(scene):
    scene.stable("a")
    assert [type(event).__name__ for _, event in scene.group.history][:2] == [
        "MemberJoined",
        "MemberSynced",
    ]


def test_persisting_is_asked_for_once_per_generation(scene):
    leader, other = scene.stable("a", "b")
    before = len(scene.written)
    scene.join(leader)
    scene.join(other)
    scene.sync(leader)
    scene.sync(other)
    assert len(scene.written) == before + 1
