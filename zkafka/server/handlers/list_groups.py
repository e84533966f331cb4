"""ListGroups (API key 16, versions 0 to 5): the groups that this broker coordinates.

Clients ask every broker. While a partition of `__consumer_offsets` loads the code is
COORDINATOR_LOAD_IN_PROGRESS, and the list what is known so far. Filters compare without regard to
case; all groups are of type "classic".

Where we differ from Kafka: no authorizer, so all groups are listed.

Version history: 0; 1 throttle time; 2 throttling after the answer; 3 flexible; 4 states
(KIP-518); 5 types (KIP-848).
"""

from zkafka.protocol.messages.list_groups import ListGroupsRequest, ListGroupsResponse
from zkafka.server.context import RequestContext


async def handle(request: ListGroupsRequest, context: RequestContext) -> ListGroupsResponse:
    """Answered at once."""
    error, groups = context.parts.groups.list_groups(request.states_filter, request.types_filter)
    return ListGroupsResponse(error_code=error, groups=groups)
