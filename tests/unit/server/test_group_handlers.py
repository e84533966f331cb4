"""Handlers of group requests, as far as they do more than to ask the coordinator.

What the coordinator answers, in every version, is in tests/unit/groups/test_every_version.py.
"""

from types import SimpleNamespace

import pytest
from server_fakes import LISTENER, context, update_metadata

from zkafka.errors import ErrorCode, SessionSuspended
from zkafka.model import OFFSETS_TOPIC
from zkafka.protocol.messages.find_coordinator import FindCoordinatorRequest
from zkafka.protocol.messages.leave_group import (
    LeaveGroupRequest,
    LeaveGroupResponse,
    MemberIdentity,
    MemberResponse,
)
from zkafka.server.handlers import find_coordinator, leave_group
from zkafka.server.metadata import MetadataCache

GROUP = 0
TRANSACTION = 1
NOBODY = (-1, "", -1)


class FakeTopics:
    """Creates topics when asked to; `result` is what becomes of it."""

    def __init__(self):
        self.created = []
        self.result = ErrorCode.LEADER_NOT_AVAILABLE

    async def create_internal(self, name):
        self.created.append(name)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.fixture
def parts():
    metadata = MetadataCache("cluster")
    metadata.apply(update_metadata(topics=()))
    groups = SimpleNamespace(partition_for=lambda key: len(key) % 2)
    return SimpleNamespace(metadata=metadata, groups=groups, topics=FakeTopics())


def know(parts, **update):
    parts.metadata.apply(update_metadata(topics=(OFFSETS_TOPIC,), **update))


async def find(parts, key, *, version=4, key_type=GROUP, listener=LISTENER):
    request = FindCoordinatorRequest(
        key=key, coordinator_keys=[key] if version >= 4 else (), key_type=key_type
    )
    response = await find_coordinator.handle(request, context(parts, version, listener=listener))
    return response.coordinators[0] if version >= 4 else response


def whereabouts(found):
    return found.node_id, found.host, found.port


@pytest.mark.parametrize("version", range(7))
async def test_the_coordinator_is_the_leader_of_the_groups_partition(parts, version):
    know(parts, leader=2)
    found = await find(parts, "g", version=version)
    assert found.error_code == ErrorCode.NONE
    assert whereabouts(found) == (2, "h2", 9092)
    assert found.error_message is None
    assert parts.topics.created == []


@pytest.mark.parametrize("version", range(7))
async def test_the_offsets_topic_is_created_on_first_use(parts, version):
    found = await find(parts, "g", version=version)
    assert found.error_code == ErrorCode.COORDINATOR_NOT_AVAILABLE
    assert whereabouts(found) == NOBODY
    assert parts.topics.created == [OFFSETS_TOPIC]


@pytest.mark.parametrize(
    "result",
    [ErrorCode.INVALID_REPLICATION_FACTOR, SessionSuspended("no answer")],
)
async def test_a_topic_that_cannot_be_created_is_asked_for_again(parts, result):
    parts.topics.result = result
    found = await find(parts, "g")
    assert found.error_code == ErrorCode.COORDINATOR_NOT_AVAILABLE


@pytest.mark.parametrize("unreachable", [{"leader": -1}, {"leader": 3}])
async def test_a_leader_that_is_not_there_is_not_named(parts, unreachable):
    know(parts, **unreachable)
    found = await find(parts, "g")
    assert found.error_code == ErrorCode.COORDINATOR_NOT_AVAILABLE
    assert whereabouts(found) == NOBODY


async def test_a_leader_that_does_not_listen_where_the_client_is_is_not_named(parts):
    know(parts)
    found = await find(parts, "g", listener="ELSEWHERE")
    assert found.error_code == ErrorCode.COORDINATOR_NOT_AVAILABLE


async def test_a_partition_that_is_not_known_yet_has_no_coordinator(parts):
    know(parts, partitions=1)
    assert (await find(parts, "gg")).error_code == ErrorCode.NONE
    assert (await find(parts, "g")).error_code == ErrorCode.COORDINATOR_NOT_AVAILABLE


@pytest.mark.parametrize("key", ["x" * 32_768, "ü" * 16_384])
async def test_an_id_that_no_coordinator_can_write_down_has_none(parts, key):
    know(parts)
    assert (await find(parts, key)).error_code == ErrorCode.INVALID_REQUEST
    assert (await find(parts, key[:-1])).error_code == ErrorCode.NONE


async def test_the_topic_is_created_once_however_many_are_asked_for(parts):
    request = FindCoordinatorRequest(coordinator_keys=["a", "b", "c"])
    response = await find_coordinator.handle(request, context(parts, 4))
    unavailable = ErrorCode.COORDINATOR_NOT_AVAILABLE
    assert [c.error_code for c in response.coordinators] == [unavailable] * 3
    assert parts.topics.created == [OFFSETS_TOPIC]


async def test_several_groups_are_found_each_for_itself(parts):
    know(parts, partitions=1)
    request = FindCoordinatorRequest(coordinator_keys=["gg", "g", ""])
    response = await find_coordinator.handle(request, context(parts, 4))
    assert [(c.key, c.error_code) for c in response.coordinators] == [
        ("gg", ErrorCode.NONE),
        ("g", ErrorCode.COORDINATOR_NOT_AVAILABLE),
        ("", ErrorCode.NONE),
    ]


@pytest.mark.parametrize("version", [1, 3, 4, 6])
async def test_a_transactional_producer_is_told_at_once_and_for_good(parts, version):
    found = await find(parts, "tx", version=version, key_type=TRANSACTION)
    code = ErrorCode(found.error_code)
    assert code is ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    assert not code.retriable
    assert "not supported" in found.error_message
    assert parts.topics.created == []


@pytest.mark.parametrize("key_type", [2, 3, -1])
async def test_other_kinds_of_coordinator_do_not_exist(parts, key_type):
    found = await find(parts, "key", version=6, key_type=key_type)
    assert found.error_code == ErrorCode.INVALID_REQUEST


# LeaveGroup up to version 2.


@pytest.mark.parametrize(
    ("response", "code"),
    [
        (LeaveGroupResponse(error_code=16), 16),
        (LeaveGroupResponse(members=[MemberResponse(error_code=25)]), 25),
        (LeaveGroupResponse(members=[MemberResponse(error_code=0)]), 0),
    ],
)
async def test_before_version_3_the_only_members_code_is_the_answers(response, code):
    asked = []

    def leave(request):
        asked.append(request)
        return response

    parts = SimpleNamespace(groups=SimpleNamespace(leave_group=leave))
    request = LeaveGroupRequest(group_id="g", member_id="m")
    answer = await leave_group.handle(request, context(parts, 2))
    assert answer == LeaveGroupResponse(error_code=code)
    (passed_on,) = asked
    assert passed_on == LeaveGroupRequest(group_id="g", members=[MemberIdentity(member_id="m")])
