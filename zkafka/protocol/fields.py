"""How a message says what it looks like on the wire.

A message is one attrs class for all of its versions, as in Kafka's own message definitions: a
field carries its wire type and the versions that have it; where a version lacks it, a reader
fills in the default and a writer leaves it out. `codec.py` compiles readers and writers from
these declarations; nothing else looks at them.

    @message(api_key=12, versions=(0, 4), flexible=4)
    class HeartbeatRequest:
        group_id: str = string()
        generation_id: int = int32()
        member_id: str = string()
        group_instance_id: str | None = string(since=3, nullable=True, default=None)

Messages are values: nobody assigns to a field after construction. They are not frozen, since
attrs' frozen classes cost three times as much to construct, and a Fetch builds many.

Source: the message definitions of Apache Kafka 3.9 (names, types, versions, tags, defaults).
"""

import typing
import uuid
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, dataclass_transform

import attrs

NULL_UUID = uuid.UUID(int=0)
LATEST = 32767
"""`until` of a field that no version has dropped."""

T = TypeVar("T")


@attrs.frozen
class WireType:
    """What a field is on the wire.

    `kind` is a primitive's name ("int32", "string", "records", ...), "struct" or "array";
    `element` describes an array's elements; `struct` is the message class of a struct.
    """

    kind: str
    element: "WireType | None" = None
    struct: type[Any] | None = None


@attrs.frozen
class WireField:
    """One field's declaration: its wire type and where it occurs, both versions inclusive."""

    name: str
    type: WireType
    since: int
    until: int
    tag: int | None
    nullable_since: int | None
    default: Any


@attrs.frozen
class WireSchema:
    """What `@message` leaves on a class: `api_key` is None for a nested struct."""

    fields: tuple[WireField, ...]
    api_key: int | None
    versions: tuple[int, int]
    flexible: int
    """First flexible version (KIP-482); LATEST for never."""


_KEY = "zkafka.wire"


def _field(
    wire: WireType,
    default: Any,
    since: int,
    until: int,
    tag: int | None,
    nullable: bool | int,
) -> Any:
    nullable_since = None if nullable is False else since if nullable is True else nullable
    return attrs.field(
        default=default,
        metadata={_KEY: (wire, since, until, tag, nullable_since)},
    )


def _primitive(kind: str, zero: Any) -> Callable[..., Any]:
    wire = WireType(kind)

    def declare(
        *,
        default: Any = zero,
        since: int = 0,
        until: int = LATEST,
        tag: int | None = None,
        nullable: bool | int = False,
    ) -> Any:
        return _field(wire, default, since, until, tag, nullable)

    declare.__name__ = kind
    return declare


boolean = _primitive("bool", zero=False)
int8 = _primitive("int8", zero=0)
int16 = _primitive("int16", zero=0)
uint16 = _primitive("uint16", zero=0)
int32 = _primitive("int32", zero=0)
uint32 = _primitive("uint32", zero=0)
int64 = _primitive("int64", zero=0)
float64 = _primitive("float64", zero=0.0)
uuid_ = _primitive("uuid", zero=NULL_UUID)
string = _primitive("string", zero="")
bytes_ = _primitive("bytes", zero=b"")
records_ = _primitive("records", zero=None)


def array(
    element: str | type[Any],
    *,
    default: Any = (),
    since: int = 0,
    until: int = LATEST,
    tag: int | None = None,
    nullable: bool | int = False,
) -> Any:
    """A sequence of a primitive (by name) or of a struct (by class); a reader makes a list."""
    of = WireType(element) if isinstance(element, str) else WireType("struct", struct=element)
    return _field(WireType("array", element=of), default, since, until, tag, nullable)


def struct(
    of: type[Any],
    *,
    default: Any = None,
    since: int = 0,
    until: int = LATEST,
    tag: int | None = None,
    nullable: bool | int = False,
) -> Any:
    """One nested struct. Where it is absent the field is `default`, or, if that is None and the
    field cannot be null, one `of()` that all messages share: a writer knows by identity that nobody
    set it."""
    if default is None and nullable is False:
        default = of()
    return _field(WireType("struct", struct=of), default, since, until, tag, nullable)


@dataclass_transform(
    kw_only_default=True,
    field_specifiers=(
        boolean, int8, int16, uint16, int32, uint32, int64, float64, uuid_, string, bytes_,
        records_, array, struct,
    ),
)  # fmt: skip
def message(
    *, api_key: int | None = None, versions: tuple[int, int] = (0, LATEST), flexible: int = LATEST
) -> Callable[[type[T]], type[T]]:
    """Make a class a message (with `api_key`, its `versions` and first `flexible` one) or a nested
    struct (without)."""

    def decorate(cls: type[T]) -> type[T]:
        defined = attrs.define(kw_only=True, slots=True)(cls)
        wire_fields = tuple(
            WireField(a.name, wire, since, until, tag, nullable_since, a.default)
            for a in attrs.fields(typing.cast(Any, defined))
            for wire, since, until, tag, nullable_since in (a.metadata[_KEY],)
        )
        defined.__wire__ = WireSchema(wire_fields, api_key, versions, flexible)  # type: ignore[attr-defined]
        return defined

    return decorate


def schema_of(cls: type[Any]) -> WireSchema:
    """The declaration that `@message` left on `cls`."""
    schema: WireSchema = cls.__wire__
    return schema


Records = bytes | memoryview | Any
"""What a `records` field may hold: bytes to write as they are, or an object with a `size` that
the sender knows how to send (a `log.segment.LogSlice`). A reader makes a memoryview."""

__all__ = [
    "LATEST", "NULL_UUID", "Records", "Sequence", "WireField", "WireSchema", "WireType", "array",
    "boolean", "bytes_", "float64", "int8", "int16", "int32", "int64", "message", "records_",
    "schema_of", "string", "struct", "uint16", "uint32", "uuid_",
]  # fmt: skip
