"""ApiVersions (API key 18, versions 0 to 4): which APIs we serve, and in which versions.

Computed from `protocol/apis.py`, so that what is advertised is what is served. A request of a
newer version is answered by `unsupported_version()` in version 0 without reading its body: error
UNSUPPORTED_VERSION and the one entry the client needs to ask again.

Version 3 and later name the client's software; a name or version that is not made of letters,
digits and inner `-` and `.` is refused with INVALID_REQUEST.

Where we differ from Kafka: none in what is served. Produce is listed from version 0, though served
from 3, since librdkafka compresses only then (KAFKA-18659); Kafka 4 does the same.

Version history: 0; 1 throttle time; 2 throttling after the answer (KIP-219); 3 flexible, client
software (KIP-511), features (KIP-584); 4 features whose minimum is 0 (KIP-1022; we have none).
The response header is version 0 in all of them.
"""

import re

from zkafka.errors import ErrorCode
from zkafka.protocol.apis import APIS, ApiKey
from zkafka.protocol.messages.api_versions import (
    ApiVersion,
    ApiVersionsRequest,
    ApiVersionsResponse,
)
from zkafka.server.context import RequestContext

_SOFTWARE = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?")


async def handle(request: ApiVersionsRequest, context: RequestContext) -> ApiVersionsResponse:
    """The table of what is supported, ordered by key."""
    if context.version >= 3:
        named = (request.client_software_name, request.client_software_version)
        if not all(_SOFTWARE.fullmatch(name) for name in named):
            return ApiVersionsResponse(error_code=ErrorCode.INVALID_REQUEST)
    return ApiVersionsResponse(api_keys=advertised())


def advertised() -> list[ApiVersion]:
    """One entry per API, ordered by key."""
    return [
        ApiVersion(api_key=key, min_version=api.advertised_min, max_version=api.max_version)
        for key, api in sorted(APIS.items())
    ]


def unsupported_version() -> ApiVersionsResponse:
    """The answer to a version of ApiVersions we do not know; to be written as version 0."""
    own = APIS[ApiKey.API_VERSIONS]
    entry = ApiVersion(api_key=own.key, min_version=own.advertised_min, max_version=own.max_version)
    return ApiVersionsResponse(error_code=ErrorCode.UNSUPPORTED_VERSION, api_keys=[entry])
