"""A group's life in every version of every API, through the codec and the handlers."""

from types import SimpleNamespace

import pytest
import trio
from coordinator_scene import CoordinatorScene, update_metadata

from zkafka.errors import ErrorCode
from zkafka.model import OFFSETS_TOPIC
from zkafka.protocol.apis import APIS, ApiKey
from zkafka.protocol.codec import RequestHeader, decode, encode
from zkafka.protocol.messages.join_group import JoinGroupRequestProtocol
from zkafka.protocol.messages.leave_group import MemberIdentity
from zkafka.protocol.messages.offset_commit import (
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from zkafka.protocol.messages.offset_delete import (
    OffsetDeleteRequestPartition,
    OffsetDeleteRequestTopic,
)
from zkafka.protocol.messages.offset_fetch import (
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopic,
    OffsetFetchRequestTopics,
)
from zkafka.protocol.messages.sync_group import SyncGroupRequestAssignment
from zkafka.server.context import RequestContext
from zkafka.server.handlers import (
    delete_groups,
    describe_groups,
    find_coordinator,
    heartbeat,
    join_group,
    leave_group,
    list_groups,
    offset_commit,
    offset_delete,
    offset_fetch,
    sync_group,
)

HANDLERS = {
    ApiKey.DELETE_GROUPS: delete_groups,
    ApiKey.DESCRIBE_GROUPS: describe_groups,
    ApiKey.FIND_COORDINATOR: find_coordinator,
    ApiKey.HEARTBEAT: heartbeat,
    ApiKey.JOIN_GROUP: join_group,
    ApiKey.LEAVE_GROUP: leave_group,
    ApiKey.LIST_GROUPS: list_groups,
    ApiKey.OFFSET_COMMIT: offset_commit,
    ApiKey.OFFSET_DELETE: offset_delete,
    ApiKey.OFFSET_FETCH: offset_fetch,
    ApiKey.SYNC_GROUP: sync_group,
}
GROUP = "readers"


def versions(key):
    api = APIS[key]
    return range(api.min_version, api.max_version + 1)


def every(key):
    return pytest.mark.parametrize("version", versions(key))


class Wire:
    """Sends requests as bytes and reads the answers from bytes."""

    def __init__(self, scene):
        self.scene = scene
        self.parts = SimpleNamespace(groups=scene.groups, metadata=scene.metadata)

    async def ask(self, key, version, /, **fields):
        api = APIS[key]
        request = api.request_class(**fields)
        request = decode(api.request_class, version, encode(request, version))
        context = RequestContext(
            parts=self.parts,
            header=RequestHeader(key, version, 1, "client"),
            connection_id=1,
            peer_host="10.0.0.1",
            listener_name="PLAINTEXT",
        )
        response = await HANDLERS[key].handle(request, context)
        return decode(api.response_class, version, encode(response, version))

    async def join(self, version, member_id="", **fields):
        return await self.ask(
            ApiKey.JOIN_GROUP,
            version,
            **{
                "group_id": GROUP,
                "member_id": member_id,
                "session_timeout_ms": 10_000,
                "rebalance_timeout_ms": 60_000,
                "protocol_type": "consumer",
                "protocols": [JoinGroupRequestProtocol(name="range", metadata=b"m")],
                **fields,
            },
        )

    async def member(self):
        joined = await self.join(3)
        plan = [SyncGroupRequestAssignment(member_id=joined.member_id, assignment=b"mine")]
        await self.ask(
            ApiKey.SYNC_GROUP,
            0,
            group_id=GROUP,
            generation_id=1,
            member_id=joined.member_id,
            assignments=plan,
        )
        return joined.member_id

    async def commit(self, version=2, **fields):
        return await self.ask(
            ApiKey.OFFSET_COMMIT,
            version,
            group_id=GROUP,
            topics=[
                OffsetCommitRequestTopic(
                    name="orders",
                    partitions=[
                        OffsetCommitRequestPartition(
                            partition_index=0, committed_offset=7, **fields
                        )
                    ],
                )
            ],
        )


@pytest.fixture
async def wire():
    async with CoordinatorScene().running() as scene:
        yield Wire(scene)


@every(ApiKey.JOIN_GROUP)
async def test_joining(autojump_clock, wire, version):
    joined = await wire.join(version)
    if version >= 4:
        assert joined.error_code == ErrorCode.MEMBER_ID_REQUIRED
        # No protocol: null where it may be, else empty.
        assert joined.protocol_name == (None if version >= 7 else "")
        joined = await wire.join(version, joined.member_id)
    assert joined.error_code == ErrorCode.NONE
    assert joined.generation_id == 1
    assert joined.leader == joined.member_id
    assert joined.protocol_name == "range"
    assert joined.protocol_type == ("consumer" if version >= 7 else None)
    assert [(m.member_id, m.metadata) for m in joined.members] == [(joined.member_id, b"m")]
    (member,) = wire.scene.describe().members
    assert member.client_host == "/10.0.0.1"


async def test_version_0_of_joining_has_one_timeout_for_all(autojump_clock, wire):
    joined = await wire.join(0)
    member = await wire.ask(
        ApiKey.SYNC_GROUP, 0, group_id=GROUP, generation_id=1, member_id=joined.member_id
    )
    assert member.error_code == ErrorCode.NONE
    async with trio.open_nursery() as nursery:
        began = trio.current_time()
        nursery.start_soon(wire.join, 1)
        while wire.scene.state() != "CompletingRebalance":
            await trio.sleep(1)
            wire.scene.heartbeat(joined.member_id, 1)
        # The larger of the old member's session and the newcomer's rebalance timeout.
        assert 59 <= trio.current_time() - began <= 61


@pytest.mark.parametrize("version", [0, 3, 4, 6, 7, 9])
async def test_a_refused_join_can_be_written_in_every_version(autojump_clock, wire, version):
    refused = await wire.join(version, "nobody")
    assert refused.error_code == ErrorCode.UNKNOWN_MEMBER_ID
    assert refused.generation_id == -1
    refused = await wire.join(version, session_timeout_ms=1)
    assert refused.error_code == ErrorCode.INVALID_SESSION_TIMEOUT
    refused = await wire.join(version, group_id="")
    assert refused.error_code == ErrorCode.INVALID_GROUP_ID


async def test_a_static_leader_that_comes_back_in_version_9_skips_the_assignment(
    autojump_clock, wire
):
    joined = await wire.join(9, group_instance_id="i")
    synced = await wire.scene.sync(joined.member_id, 1, {joined.member_id: b"a"})
    assert synced.error_code == ErrorCode.NONE
    again = await wire.join(9, group_instance_id="i")
    assert again.skip_assignment
    assert again.generation_id == 1
    assert again.members[0].group_instance_id == "i"
    older = await wire.join(8, group_instance_id="i")
    assert not older.skip_assignment
    assert older.leader == again.member_id


@every(ApiKey.SYNC_GROUP)
async def test_syncing(autojump_clock, wire, version):
    joined = await wire.join(3)
    synced = await wire.ask(
        ApiKey.SYNC_GROUP,
        version,
        group_id=GROUP,
        generation_id=1,
        member_id=joined.member_id,
        protocol_type="consumer" if version >= 5 else None,
        protocol_name="range" if version >= 5 else None,
        assignments=[SyncGroupRequestAssignment(member_id=joined.member_id, assignment=b"mine")],
    )
    assert (synced.error_code, synced.assignment) == (ErrorCode.NONE, b"mine")
    assert synced.protocol_name == ("range" if version >= 5 else None)
    refused = await wire.ask(ApiKey.SYNC_GROUP, version, group_id=GROUP, member_id="nobody")
    assert refused.error_code == ErrorCode.UNKNOWN_MEMBER_ID


@every(ApiKey.HEARTBEAT)
async def test_heartbeats(autojump_clock, wire, version):
    member = await wire.member()
    beat = {"group_id": GROUP, "member_id": member}
    answer = await wire.ask(ApiKey.HEARTBEAT, version, generation_id=1, **beat)
    assert answer.error_code == ErrorCode.NONE
    answer = await wire.ask(ApiKey.HEARTBEAT, version, generation_id=2, **beat)
    assert answer.error_code == ErrorCode.ILLEGAL_GENERATION


@every(ApiKey.LEAVE_GROUP)
async def test_leaving(autojump_clock, wire, version):
    member = await wire.member()

    async def leave(member_id):
        if version < 3:
            return await wire.ask(ApiKey.LEAVE_GROUP, version, group_id=GROUP, member_id=member_id)
        identities = [MemberIdentity(member_id=member_id)]
        return await wire.ask(ApiKey.LEAVE_GROUP, version, group_id=GROUP, members=identities)

    unknown = ErrorCode.UNKNOWN_MEMBER_ID
    answer = await leave("nobody")
    if version < 3:
        assert answer.error_code == unknown
    else:
        assert answer.error_code == ErrorCode.NONE
        assert [(m.member_id, m.error_code) for m in answer.members] == [("nobody", unknown)]
    answer = await leave(member)
    assert answer.error_code == ErrorCode.NONE
    assert all(m.error_code == ErrorCode.NONE for m in answer.members)
    assert wire.scene.state() == "Empty"
    wire.scene.resign(wire.scene.partition())
    assert (await leave(member)).error_code == ErrorCode.NOT_COORDINATOR


@every(ApiKey.OFFSET_COMMIT)
async def test_committing_and_fetching(autojump_clock, wire, version):
    fields = {"committed_metadata": "note"}
    if version >= 6:
        fields["committed_leader_epoch"] = 4
    answer = await wire.commit(version, **fields)
    assert answer.topics[0].partitions[0].error_code == ErrorCode.NONE
    fetched = await wire.ask(
        ApiKey.OFFSET_FETCH, 8, groups=[OffsetFetchRequestGroup(group_id=GROUP, topics=None)]
    )
    (partition,) = fetched.groups[0].topics[0].partitions
    assert (partition.committed_offset, partition.metadata) == (7, "note")
    assert partition.committed_leader_epoch == (4 if version >= 6 else -1)


@pytest.mark.parametrize("version", range(1, 8))
async def test_fetching_the_offsets_of_one_group(autojump_clock, wire, version):
    await wire.commit()
    wanted = [OffsetFetchRequestTopic(name="orders", partition_indexes=[0, 1])]
    fetched = await wire.ask(ApiKey.OFFSET_FETCH, version, group_id=GROUP, topics=wanted)
    first, second = fetched.topics[0].partitions
    assert (first.committed_offset, second.committed_offset) == (7, -1)
    assert (second.metadata, second.error_code) == ("", ErrorCode.NONE)
    if version >= 2:
        fetched = await wire.ask(ApiKey.OFFSET_FETCH, version, group_id=GROUP, topics=None)
        assert [p.partition_index for p in fetched.topics[0].partitions] == [0]
    wire.scene.resign(wire.scene.partition())
    refused = await wire.ask(ApiKey.OFFSET_FETCH, version, group_id=GROUP, topics=wanted)
    if version >= 2:
        assert refused.error_code == ErrorCode.NOT_COORDINATOR
    else:
        codes = [p.error_code for p in refused.topics[0].partitions]
        assert codes == [ErrorCode.NOT_COORDINATOR] * 2


@pytest.mark.parametrize("version", [8, 9])
async def test_fetching_the_offsets_of_several_groups(autojump_clock, wire, version):
    await wire.commit()
    ours = wire.scene.partition()
    other = next(f"g{n}" for n in range(99) if wire.scene.partition(f"g{n}") != ours)
    wire.scene.resign(wire.scene.partition(other))
    wanted = [OffsetFetchRequestTopics(name="orders", partition_indexes=[0])]
    fetched = await wire.ask(
        ApiKey.OFFSET_FETCH,
        version,
        groups=[
            OffsetFetchRequestGroup(group_id=GROUP, topics=wanted),
            OffsetFetchRequestGroup(group_id=other, topics=wanted),
        ],
        require_stable=True,
    )
    by_group = {group.group_id: group for group in fetched.groups}
    assert by_group[GROUP].topics[0].partitions[0].committed_offset == 7
    assert by_group[other].error_code == ErrorCode.NOT_COORDINATOR
    assert by_group[other].topics == []


async def test_an_unstable_offset_is_asked_for_again_since_version_7(autojump_clock, wire):
    wire.scene.replicas.lag = True
    wanted = [OffsetFetchRequestTopic(name="orders", partition_indexes=[0])]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.commit)
        await trio.testing.wait_all_tasks_blocked()
        fetched = await wire.ask(
            ApiKey.OFFSET_FETCH, 7, group_id=GROUP, topics=wanted, require_stable=True
        )
        (partition,) = fetched.topics[0].partitions
        assert partition.error_code == ErrorCode.UNSTABLE_OFFSET_COMMIT
        assert partition.committed_offset == -1
        fetched = await wire.ask(ApiKey.OFFSET_FETCH, 6, group_id=GROUP, topics=wanted)
        assert fetched.topics[0].partitions[0].error_code == ErrorCode.NONE


@every(ApiKey.LIST_GROUPS)
async def test_listing(autojump_clock, wire, version):
    await wire.member()
    filters = {}
    if version >= 4:
        filters["states_filter"] = ["stable"]
    if version >= 5:
        filters["types_filter"] = ["classic"]
    listed = await wire.ask(ApiKey.LIST_GROUPS, version, **filters)
    (group,) = listed.groups
    assert (group.group_id, group.protocol_type) == (GROUP, "consumer")
    assert group.group_state == ("Stable" if version >= 4 else "")
    assert group.group_type == ("classic" if version >= 5 else "")


@every(ApiKey.DESCRIBE_GROUPS)
async def test_describing(autojump_clock, wire, version):
    member = await wire.member()
    asked = {"include_authorized_operations": True} if version >= 3 else {}
    described = await wire.ask(ApiKey.DESCRIBE_GROUPS, version, groups=[GROUP, "nobody"], **asked)
    group, nobody = described.groups
    assert (group.group_state, nobody.group_state) == ("Stable", "Dead")
    assert (group.error_code, nobody.error_code) == (ErrorCode.NONE, ErrorCode.NONE)
    assert [(m.member_id, m.member_assignment) for m in group.members] == [(member, b"mine")]
    operations = 1 << 3 | 1 << 6 | 1 << 8 if version >= 3 else -(2**31)
    assert group.authorized_operations == operations
    plain = await wire.ask(ApiKey.DESCRIBE_GROUPS, version, groups=[GROUP])
    assert plain.groups[0].authorized_operations == -(2**31)


@every(ApiKey.DELETE_GROUPS)
async def test_deleting_groups(autojump_clock, wire, version):
    await wire.commit()
    deleted = await wire.ask(ApiKey.DELETE_GROUPS, version, groups_names=[GROUP, "nobody"])
    assert [r.error_code for r in deleted.results] == [
        ErrorCode.NONE,
        ErrorCode.GROUP_ID_NOT_FOUND,
    ]


async def test_deleting_offsets(autojump_clock, wire):
    await wire.commit()
    wanted = OffsetDeleteRequestTopic(
        name="orders", partitions=[OffsetDeleteRequestPartition(partition_index=0)]
    )
    deleted = await wire.ask(ApiKey.OFFSET_DELETE, 0, group_id=GROUP, topics=[wanted])
    assert deleted.topics[0].partitions[0].error_code == ErrorCode.NONE
    assert wire.scene.fetch() == {}
    refused = await wire.ask(ApiKey.OFFSET_DELETE, 0, group_id="nobody", topics=[wanted])
    assert refused.error_code == ErrorCode.GROUP_ID_NOT_FOUND


@every(ApiKey.FIND_COORDINATOR)
async def test_finding_the_coordinator(autojump_clock, wire, version):
    wire.scene.metadata.apply(update_metadata({OFFSETS_TOPIC: 4}))
    key = {"coordinator_keys": [GROUP]} if version >= 4 else {"key": GROUP}
    answer = await wire.ask(ApiKey.FIND_COORDINATOR, version, **key)
    found = answer.coordinators[0] if version >= 4 else answer
    assert (found.error_code, found.node_id, found.host, found.port) == (
        ErrorCode.NONE, 1, "localhost", 9092,
    )  # fmt: skip
