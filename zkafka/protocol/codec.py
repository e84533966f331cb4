"""Bytes to messages and back: one reader and one writer compiled per message class and version.

The declarations in `messages/` say what is on the wire. From them this module writes the Python
source of a function that reads (or writes) exactly one class in exactly one version, and compiles
it on first use. A run of fixed-width fields, with the length that follows it, is one
`struct` call; nested structs are inlined. Printed sources: `reader_source`, `writer_source`.

Laws of a reader, whatever the bytes:

- The only exception is `RemoteProtocolError`.
- A count is believed only if that many elements of their least size fit in the bytes left, and
  as long as all counts together stay below the element budget. A length is believed only up
  to the bytes left. So neither time nor memory exceeds a multiple of the bytes received.
- Unknown tagged fields are skipped; a tag twice or out of order, a null where none may be, invalid
  UTF-8, a negative length other than null's -1, bytes left over: all refused (but for what
  follows a client's request, see `decode_request`).
- `records` come out as a view into the buffer given, nothing else does.

Laws of a writer: a tagged field equal to its default is left out, and so is a field that the
version lacks, whatever its value (nearly all of Kafka's are ignorable, and handlers know their
version). A value that does not fit its field (a string above 32,767 bytes in a classic version)
is `LocalProtocolError`.

Source: KIP-482 (flexible versions), KIP-511 (the header of ApiVersions).
"""

import functools
import struct
import uuid
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

import attrs

from zkafka.errors import LocalProtocolError, RemoteProtocolError
from zkafka.protocol.apis import APIS, ApiKey
from zkafka.protocol.fields import LATEST, WireField, WireType, schema_of

T = TypeVar("T")

ELEMENT_BUDGET = 200_000
"""Array elements in one message from a client, all arrays together. Ours: a Metadata request for
every topic of a large cluster, or a Fetch of all partitions of a leader, has a quarter of it; at
some 200 bytes and ten microseconds per element a hostile request costs 40 MB and two seconds at
most, and only if it sends 200 KB or more."""

PEER_ELEMENT_BUDGET = 5_000_000
"""The same for what brokers tell each other: 200,000 partitions with their replicas."""

SEPARATE_PART = 16 * 1024
"""Records of this size or more are sent from where they lie; smaller ones are cheaper to copy."""


class Sendable(Protocol):
    """What `records` may hold besides bytes: the sender knows how to send `size` bytes of it."""

    @property
    def size(self) -> int: ...


_BYTES = (bytes, bytearray, memoryview)

Part = bytes | memoryview | Any
"""Bytes, or a `Sendable` such as `log.segment.LogSlice`."""
Parts = list[Part]


class RequestHeader(NamedTuple):
    """What opens every request; `client_id` is None where the client sent null."""

    api_key: int
    api_version: int
    correlation_id: int
    client_id: str | None


@attrs.frozen(eq=False)
class Prepared:
    """A response encoded once, in one version, that many requests are answered with."""

    message_class: type[Any]
    version: int
    body: bytes
    codes: Mapping[int, int]
    """How often it carries each error code, for who counts them."""

    @classmethod
    def of(cls, message: Any, version: int, codes: Mapping[int, int]) -> "Prepared":
        """Errors: LocalProtocolError."""
        return cls(type(message), version, encode(message, version), codes)


# --- What callers use ---------------------------------------------------------------------------


def decode(
    cls: type[T],
    version: int,
    buffer: bytes | bytearray | memoryview,
    *,
    element_budget: int = ELEMENT_BUDGET,
) -> T:
    """The message in `buffer`, all of it. Errors: RemoteProtocolError."""
    message, position = _decode(cls, version, buffer, element_budget)
    if position != len(buffer):
        raise RemoteProtocolError(f"{len(buffer) - position} bytes after {cls.__name__} v{version}")
    return message


def decode_request(
    cls: type[T],
    version: int,
    buffer: bytes | bytearray | memoryview,
    *,
    element_budget: int = ELEMENT_BUDGET,
) -> T:
    """The request at the start of `buffer`; bytes after it are ignored, since clients send some.

    librdkafka 2.15 and 2.16 ask for all topics (Metadata v9 and later) with a null array of four
    bytes where one is meant, so that three are left over. Kafka never looks behind a request and
    answers. Errors: RemoteProtocolError.
    """
    return _decode(cls, version, buffer, element_budget)[0]


def encode(message: Any, version: int) -> bytes:
    """The bytes of a message without `Sendable` records."""
    out: Parts = []
    _write(message, version, out)
    try:
        return b"".join(out)
    except TypeError as error:
        raise LocalProtocolError(f"{type(message).__name__}: {error}") from error


def encode_parts(message: Any, version: int) -> Parts:
    """The bytes of a message, large and `Sendable` records as parts of their own."""
    out: Parts = []
    return _join(out, _write(message, version, out))


def decode_request_header(buffer: bytes | bytearray | memoryview) -> tuple[RequestHeader, int]:
    """The header at the start of a request, and where its body begins.

    An API or version that is not served still gives a header, for the dispatcher to refuse; its
    tagged fields are skipped where the version's would be there.
    """
    try:
        api_key, api_version, correlation_id, size = _unpack_header(buffer, 0)
        position = 10
        client_id = None
        if size >= 0:
            position += size
            if position > len(buffer):
                raise RemoteProtocolError("request header cut short")
            client_id = str(buffer[10:position], "utf-8")
        elif size != -1:
            raise RemoteProtocolError(f"client id of {size} bytes")
        if api_version >= _FLEXIBLE.get(api_key, LATEST):
            position = _skip_tags(buffer, position) if buffer[position] else position + 1
    except (struct.error, IndexError) as error:
        raise RemoteProtocolError("request header cut short") from error
    except UnicodeDecodeError as error:
        raise RemoteProtocolError(f"client id is not UTF-8: {error}") from None
    return RequestHeader(api_key, api_version, correlation_id, client_id), position


def encode_request(message: Any, version: int, correlation_id: int, client_id: str | None) -> Parts:
    """A whole request, its size first."""
    schema = schema_of(type(message))
    assert schema.api_key is not None, type(message)
    name = b"" if client_id is None else client_id.encode()
    try:
        header = _pack_request_header(
            0, schema.api_key, version, correlation_id, -1 if client_id is None else len(name)
        )
    except struct.error as error:
        raise LocalProtocolError(f"request header: {error}") from error
    return _frame(message, version, header + name, tags=version >= schema.flexible)


def encode_response(message: Any, version: int, correlation_id: int) -> Parts:
    """A whole response, its size first; the size counts what `Sendable` parts announce."""
    prepared = isinstance(message, Prepared)
    schema = schema_of(message.message_class if prepared else type(message))
    tags = version >= schema.flexible and schema.api_key != ApiKey.API_VERSIONS
    return _frame(message, version, _pack_response_header(0, correlation_id), tags=tags)


def decode_response(
    cls: type[T],
    version: int,
    buffer: bytes | bytearray | memoryview,
    *,
    element_budget: int = PEER_ELEMENT_BUDGET,
) -> tuple[int, T]:
    """A whole response after its size: the correlation id and the message."""
    schema = schema_of(cls)
    try:
        (correlation_id,) = _unpack_int32(buffer, 0)
        position = 4
        if version >= schema.flexible and schema.api_key != ApiKey.API_VERSIONS:
            position = _skip_tags(buffer, position)
    except (struct.error, IndexError) as error:
        raise RemoteProtocolError("response header cut short") from error
    body = memoryview(buffer)[position:]
    return correlation_id, decode(cls, version, body, element_budget=element_budget)


# --- The steps they share -----------------------------------------------------------------------

_FLEXIBLE = {int(key): api.flexible for key, api in APIS.items()}
"""The first version of each API whose headers have tagged fields."""

_unpack_header = struct.Struct(">hhih").unpack_from
_pack_request_header = struct.Struct(">ihhih").pack
_pack_response_header = struct.Struct(">ii").pack
_pack_int32 = struct.Struct(">i").pack
_unpack_int32 = struct.Struct(">i").unpack_from


def _decode(
    cls: type[T], version: int, buffer: bytes | bytearray | memoryview, budget: int
) -> tuple[T, int]:
    read, views = _reader(cls, version)  # type: ignore[arg-type]
    if views:
        buffer = memoryview(buffer)
    elif type(buffer) is not bytes:
        # Slices of bytes become strings twice as fast as slices of a memoryview.
        buffer = bytes(buffer)
    try:
        return read(buffer, len(buffer), budget)  # type: ignore[no-any-return]
    except (struct.error, IndexError) as error:
        raise RemoteProtocolError(f"{cls.__name__} v{version} cut short") from error
    except UnicodeDecodeError as error:
        raise RemoteProtocolError(f"{cls.__name__} v{version}: not UTF-8: {error}") from None
    except RemoteProtocolError as error:
        raise RemoteProtocolError(f"{cls.__name__} v{version}: {error}") from None


def _write(message: Any, version: int, out: Parts) -> list[int]:
    """Append the message's pieces to `out`; the answer says which of them stand alone."""
    alone: list[int] = []
    if isinstance(message, Prepared):
        assert message.version == version, message.message_class
        out.append(message.body)
        return alone
    try:
        _writer(type(message), version)(message, out, alone)  # type: ignore[arg-type]
    except (struct.error, TypeError, AttributeError, UnicodeEncodeError) as error:
        raise LocalProtocolError(f"{type(message).__name__} v{version}: {error}") from error
    return alone


def _join(out: Parts, alone: list[int]) -> Parts:
    """`out` with neighbouring bytes joined, except those that stand alone."""
    if not alone:
        return [b"".join(out)]
    parts: Parts = []
    start = 0
    for index in alone:
        if start < index:
            parts.append(b"".join(out[start:index]))
        parts.append(out[index])
        start = index + 1
    if start < len(out):
        parts.append(b"".join(out[start:]))
    return parts


def _frame(message: Any, version: int, header: bytes, *, tags: bool) -> Parts:
    """`header` begins with four bytes for the size."""
    out: Parts = [header[4:], b"\0"] if tags else [header[4:]]
    parts = _join(out, _write(message, version, out))
    size = sum(len(part) if isinstance(part, _BYTES) else part.size for part in parts)
    try:
        parts[0] = _pack_int32(size) + parts[0]
    except struct.error as error:
        raise LocalProtocolError(f"{type(message).__name__} of {size} bytes") from error
    return parts


def _more(buffer: bytes | memoryview, position: int, value: int) -> tuple[int, int]:
    """The rest of an unsigned varint whose first byte `value` says that it goes on."""
    value &= 0x7F
    shift = 7
    while True:
        byte = buffer[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 28:
            raise RemoteProtocolError("number of more than 32 bits")
    if value > 0xFFFF_FFFF:
        raise RemoteProtocolError("number of more than 32 bits")
    return value, position


def _skip_tags(buffer: bytes | bytearray | memoryview, position: int) -> int:
    """Where a tagged section ends of which no field is known."""
    view = memoryview(buffer)
    count = view[position]
    position += 1
    if count > 127:
        count, position = _more(view, position, count)
    last = -1
    for _ in range(count):
        tag = view[position]
        position += 1
        if tag > 127:
            tag, position = _more(view, position, tag)
        if tag <= last:
            raise RemoteProtocolError(f"tag {tag} after tag {last}")
        last = tag
        size = view[position]
        position += 1
        if size > 127:
            size, position = _more(view, position, size)
        position += size
        if position > len(view):
            raise RemoteProtocolError(f"tagged field of {size} bytes")
    return position


def _uvarint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_SHORT_UVARINT = tuple(bytes([value]) for value in range(128))


@functools.lru_cache(maxsize=16384)
def uuid_of(value: bytes) -> uuid.UUID:
    """Topic ids come again and again, and the class is slow to make."""
    return uuid.UUID(bytes=value)


def _records_size(records: Any) -> int:
    size: int = len(records) if isinstance(records, _BYTES) else records.size
    return size


def _put_records(records: Any, out: Parts, alone: list[int]) -> None:
    if not isinstance(records, _BYTES) or len(records) >= SEPARATE_PART:
        alone.append(len(out))
        records = memoryview(records) if isinstance(records, bytearray) else records
    out.append(records)


# --- Declarations, seen from one version --------------------------------------------------------

_FIXED = {
    "bool": "?",
    "int8": "b",
    "int16": "h",
    "uint16": "H",
    "int32": "i",
    "uint32": "I",
    "int64": "q",
    "float64": "d",
    "uuid": "16s",
}


def _untagged(cls: type[Any], version: int) -> list[WireField]:
    return [f for f in schema_of(cls).fields if _has(f, version) and f.tag is None]


def _tagged(cls: type[Any], version: int) -> list[WireField]:
    present = (f for f in schema_of(cls).fields if _has(f, version) and f.tag is not None)
    return sorted(present, key=lambda f: f.tag or 0)


def _absent(cls: type[Any], version: int) -> list[WireField]:
    return [f for f in schema_of(cls).fields if not _has(f, version)]


def _has(field: WireField, version: int) -> bool:
    return field.since <= version <= field.until


def _nullable(field: WireField, version: int) -> bool:
    return field.nullable_since is not None and version >= field.nullable_since


def _default(field: WireField) -> Any:
    if isinstance(field.default, attrs.Factory):  # type: ignore[arg-type]
        return field.default.factory()
    return field.default


def _least_size(wire: WireType, version: int, flexible: bool) -> int:
    """The bytes that a value of this type has at least; never 0, so that counts are bounded."""
    if wire.kind in _FIXED:
        return struct.calcsize(">" + _FIXED[wire.kind])
    if wire.kind == "struct":
        assert wire.struct is not None
        fields = _untagged(wire.struct, version)
        least = sum(_least_size(f.type, version, flexible) for f in fields) + flexible
        assert least > 0, wire.struct
        return least
    if flexible:
        return 1
    return 2 if wire.kind == "string" else 4


def _has_records(cls: type[Any]) -> bool:
    def within(wire: WireType) -> bool:
        if wire.element is not None:
            return within(wire.element)
        return wire.kind == "records" or (wire.struct is not None and _has_records(wire.struct))

    return any(within(field.type) for field in schema_of(cls).fields)


class _Source:
    """Lines of a function being written, the constants it uses, and names not used before."""

    def __init__(self, cls: type[Any], version: int, signature: str) -> None:
        schema = schema_of(cls)
        low, high = schema.versions
        if not low <= version <= high:
            raise LocalProtocolError(f"{cls.__name__} has no version {version}")
        self.cls = cls
        self.version = version
        self.flexible = version >= schema.flexible
        self.lines = [signature]
        self.depth = 1
        self.names: dict[str, Any] = {}
        self.counter = 0
        self.run: list[tuple[str, str]] = []
        """Pending fixed-width fields: format, and target (reading) or expression (writing)."""

    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    def constant(self, prefix: str, value: Any) -> str:
        for name, known in self.names.items():
            if known is value and name.startswith(prefix):
                return name
        name = f"{prefix}{len(self.names)}"
        self.names[name] = value
        return name

    def fresh(self, prefix: str) -> str:
        self.counter += 1
        return f"{prefix}{self.counter}"

    def struct_call(self, method: str, fmt: str) -> str:
        name = f"{method}_{fmt.replace('?', 'bool')}"
        self.names[name] = getattr(struct.Struct(">" + fmt), method)
        return name

    def text(self) -> str:
        assert not self.run, "fields left unwritten"
        return "\n".join(self.lines) + "\n"

    def compile(self, name: str) -> Callable[..., Any]:
        code = compile(self.text(), f"<{name} of {self.cls.__name__} v{self.version}>", "exec")
        exec(code, self.names)  # our own text: it contains names from our declarations only
        function: Callable[..., Any] = self.names[name]
        return function


# --- Readers ------------------------------------------------------------------------------------


class _Reader(_Source):
    """Writes `read(buf, end, budget) -> (message, position)`.

    Reading beyond the end is IndexError or struct.error, which `_decode` translates; slices would
    be silently shorter, so they are checked.
    """

    def __init__(self, cls: type[Any], version: int) -> None:
        super().__init__(cls, version, "def read(buf, end, budget):")
        self.names.update(
            new=object.__new__,
            more=_more,
            uuid=uuid_of,
            bad=RemoteProtocolError,
            unpack_many=struct.unpack_from,
        )
        self.after: list[str] = []
        self.line("pos = 0")
        root = self.fresh("o")
        self.read_struct(cls, root)
        self.line(f"return {root}, pos")

    def fixed(self, fmt: str, target: str) -> None:
        self.run.append((fmt, target))

    def flush(self) -> None:
        run, self.run = self.run, []
        if not run:
            return
        fmt = "".join(f for f, _ in run)
        if fmt == "B":
            self.line(f"{run[0][1]} = buf[pos]")
        else:
            call = self.struct_call("unpack_from", fmt)
            self.line(f"{', '.join(t for _, t in run)}, = {call}(buf, pos)")
        self.line(f"pos += {struct.calcsize('>' + fmt)}")
        after, self.after = self.after, []
        for text in after:
            self.line(text)

    def read_struct(self, cls: type[Any], target: str) -> None:
        self.line(f"{target} = new({self.constant('C', cls)})")
        tagged = _tagged(cls, self.version)
        for field in _absent(cls, self.version) + tagged:
            # One default serves all: messages are not changed after construction.
            self.line(f"{target}.{field.name} = {self.constant('D', _default(field))}")
        for field in _untagged(cls, self.version):
            nullable = _nullable(field, self.version)
            self.read_value(field.type, f"{target}.{field.name}", nullable)
        if self.flexible:
            self.read_tags(tagged, target)
        self.flush()

    def read_value(self, wire: WireType, target: str, nullable: bool) -> None:
        if wire.kind == "uuid":
            raw = self.fresh("u")
            self.fixed("16s", raw)
            self.after.append(f"{target} = uuid({raw})")
        elif wire.kind in _FIXED:
            self.fixed(_FIXED[wire.kind], target)
        elif wire.kind == "struct":
            assert wire.struct is not None
            if nullable:
                self.read_nullable_struct(wire.struct, target)
            else:
                inner = self.fresh("o")
                self.flush()
                self.read_struct(wire.struct, inner)
                self.line(f"{target} = {inner}")
        elif wire.kind == "array":
            assert wire.element is not None
            self.read_array(wire.element, target, nullable)
        else:
            self.read_bytes(wire.kind, target, nullable)

    def read_length(self, classic: str) -> str:
        """Reads a length or count; afterwards, in the variable: -1 for null."""
        n = self.fresh("n")
        if self.flexible:
            self.fixed("B", n)
            self.flush()
            self.line(f"if {n} > 127: {n}, pos = more(buf, pos, {n})")
            self.line(f"{n} -= 1")
        else:
            self.fixed(classic, n)
            self.flush()
        return n

    def refuse_null(self, n: str, target: str, nullable: bool) -> None:
        """Opens the branch for values that are there, if there may be none."""
        name = target.partition(".")[2] or "element"
        if nullable:
            self.line(f"if {n} < 0:")
            if not self.flexible:
                self.line(f"    if {n} != -1: raise bad(f'{name}: length {{{n}}}')")
            self.line(f"    {target} = None")
            self.line("else:")
            self.depth += 1
        else:
            self.line(f"if {n} < 0: raise bad(f'{name}: length {{{n}}}')")

    def read_bytes(self, kind: str, target: str, nullable: bool) -> None:
        n = self.read_length("h" if kind == "string" else "i")
        depth = self.depth
        self.refuse_null(n, target, nullable)
        self.line(f"stop = pos + {n}")
        self.line(f"if stop > end: raise bad(f'{{{n}}} bytes announced, {{end - pos}} left')")
        match kind:
            case "string":
                self.line(f"{target} = str(buf[pos:stop], 'utf-8')")
            case "bytes":
                self.line(f"{target} = bytes(buf[pos:stop])")
            case "records":
                self.line(f"{target} = buf[pos:stop]")
            case _:
                raise AssertionError(kind)
        self.line("pos = stop")
        self.depth = depth

    def read_array(self, element: WireType, target: str, nullable: bool) -> None:
        n = self.read_length("i")
        depth = self.depth
        self.refuse_null(n, target, nullable)
        least = _least_size(element, self.version, self.flexible)
        times = f"{n} * {least}" if least > 1 else n
        self.line(f"if {times} > end - pos:")
        self.line(f"    raise bad(f'{{{n}}} elements announced, {{end - pos}} bytes left')")
        self.line(f"budget -= {n}")
        self.line("if budget < 0: raise bad('too many elements')")
        if element.kind in _FIXED and element.kind != "uuid":
            fmt = _FIXED[element.kind]
            self.line(f"{target} = list(unpack_many(f'>{{{n}}}{fmt}', buf, pos))")
            self.line(f"pos += {times}")
        else:
            items, value = self.fresh("a"), self.fresh("o")
            self.line(f"{items} = []")
            self.line(f"for _ in range({n}):")
            self.depth += 1
            if element.kind == "struct":
                assert element.struct is not None
                self.read_struct(element.struct, value)
            else:
                self.read_value(element, value, False)
                self.flush()
            self.line(f"{items}.append({value})")
            self.depth -= 1
            self.line(f"{target} = {items}")
        self.depth = depth

    def read_nullable_struct(self, cls: type[Any], target: str) -> None:
        marker, inner = self.fresh("n"), self.fresh("o")
        self.fixed("b", marker)
        self.flush()
        self.line(f"if {marker} < 0:")
        self.line(f"    {target} = None")
        self.line("else:")
        self.depth += 1
        self.read_struct(cls, inner)
        self.line(f"{target} = {inner}")
        self.depth -= 1

    def read_tags(self, tagged: list[WireField], target: str) -> None:
        count, tag, last, size = (self.fresh(p) for p in ("t", "tag", "last", "size"))
        stop = self.fresh("stop")
        self.fixed("B", count)
        self.flush()
        self.line(f"if {count}:")
        self.depth += 1
        self.line(f"if {count} > 127: {count}, pos = more(buf, pos, {count})")
        self.line(f"{last} = -1")
        self.line(f"for _ in range({count}):")
        self.depth += 1
        for name in (tag, size):
            self.line(f"{name} = buf[pos]")
            self.line("pos += 1")
            self.line(f"if {name} > 127: {name}, pos = more(buf, pos, {name})")
        self.line(f"if {tag} <= {last}: raise bad(f'tag {{{tag}}} after tag {{{last}}}')")
        self.line(f"{last} = {tag}")
        self.line(f"{stop} = pos + {size}")
        self.line(f"if {stop} > end: raise bad(f'tagged field of {{{size}}} bytes')")
        keyword = "if"
        for field in tagged:
            self.line(f"{keyword} {tag} == {field.tag}:")
            self.depth += 1
            nullable = _nullable(field, self.version)
            self.read_value(field.type, f"{target}.{field.name}", nullable)
            self.flush()
            self.line(f"if pos != {stop}: raise bad('tagged field of another size')")
            self.depth -= 1
            keyword = "elif"
        if tagged:
            self.line("else:")
            self.line(f"    pos = {stop}")
        else:
            self.line(f"pos = {stop}")
        self.depth -= 2


@functools.cache
def _reader(cls: type[Any], version: int) -> tuple[Callable[..., Any], bool]:
    """The compiled reader, and whether it gives out views (so that it needs one)."""
    return _Reader(cls, version).compile("read"), _has_records(cls)


def reader_source(cls: type[Any], version: int) -> str:
    """The text that the reader of `cls` in `version` is compiled from."""
    return _Reader(cls, version).text()


# --- Writers ------------------------------------------------------------------------------------


class _Writer(_Source):
    """Writes `write(m, out, alone)`, which appends the pieces of the message to `out`, and the
    places of those that must stay by themselves to `alone`."""

    def __init__(self, cls: type[Any], version: int) -> None:
        super().__init__(cls, version, "def write(m, out, alone):")
        self.names.update(
            uvarint=_uvarint,
            short=_SHORT_UVARINT,
            records_size=_records_size,
            put_records=_put_records,
            pack_many=struct.pack,
        )
        self.add = "add"
        self.line("add = out.append")
        self.write_struct(cls, "m")
        self.flush()

    def fixed(self, fmt: str, expression: str) -> None:
        self.run.append((fmt, expression))

    def flush(self) -> None:
        run, self.run = self.run, []
        if run:
            self.line(f"{self.add}({self.packed(run)})")

    def packed(self, run: list[tuple[str, str]]) -> str:
        if all(fmt == "x" for fmt, _ in run):
            return repr(bytes(len(run)))
        call = self.struct_call("pack", "".join(fmt for fmt, _ in run))
        return f"{call}({', '.join(e for fmt, e in run if fmt != 'x')})"

    def write_struct(self, cls: type[Any], value: str) -> None:
        for field in _untagged(cls, self.version):
            nullable = _nullable(field, self.version)
            self.write_value(field.type, f"{value}.{field.name}", nullable)
        if self.flexible:
            tagged = _tagged(cls, self.version)
            if tagged:
                self.write_tags(tagged, value)
            else:
                self.fixed("x", "")

    def write_value(self, wire: WireType, value: str, nullable: bool) -> None:
        if wire.kind == "uuid":
            self.fixed("16s", f"{value}.bytes")
        elif wire.kind in _FIXED:
            self.fixed(_FIXED[wire.kind], value)
        elif wire.kind == "struct":
            assert wire.struct is not None
            self.write_inner_struct(wire.struct, value, nullable)
        elif wire.kind == "array":
            assert wire.element is not None
            self.write_array(wire.element, value, nullable)
        else:
            self.write_bytes(wire.kind, value, nullable)

    def write_length(self, n: str, classic: str) -> None:
        """Writes the length in variable `n`, where null is -1, and all that is pending."""
        if not self.flexible:
            self.fixed(classic, n)
            self.flush()
            return
        run, self.run = self.run, []
        if run:
            self.line(f"if {n} < 127:")
            self.line(f"    {self.add}({self.packed([*run, ('B', f'{n} + 1')])})")
            self.line("else:")
            self.line(f"    {self.add}({self.packed(run)})")
            self.line(f"    {self.add}(uvarint({n} + 1))")
        else:
            self.line(f"{self.add}(short[{n} + 1] if {n} < 127 else uvarint({n} + 1))")

    def write_bytes(self, kind: str, value: str, nullable: bool) -> None:
        v, n = self.fresh("v"), self.fresh("n")
        measure = {
            "string": (f"{v} = {v}.encode()", f"{n} = len({v})"),
            "bytes": (f"{n} = len({v})",),
            "records": (f"{n} = records_size({v})",),
        }[kind]
        self.line(f"{v} = {value}")
        if nullable:
            self.line(f"if {v} is None:")
            self.line(f"    {v} = b''")
            self.line(f"    {n} = -1")
            self.line("else:")
            self.depth += 1
        for text in measure:
            self.line(text)
        if nullable:
            self.depth -= 1
        self.write_length(n, "h" if kind == "string" else "i")
        if kind == "records":
            self.line(f"if {n} > 0: put_records({v}, out, alone)")
        else:
            self.line(f"{self.add}({v})")

    def write_array(self, element: WireType, value: str, nullable: bool) -> None:
        v, n = self.fresh("v"), self.fresh("n")
        self.line(f"{v} = {value}")
        if nullable:
            self.line(f"if {v} is None:")
            self.line(f"    {v} = ()")
            self.line(f"    {n} = -1")
            self.line("else:")
            self.line(f"    {n} = len({v})")
        else:
            self.line(f"{n} = len({v})")
        self.write_length(n, "i")
        if element.kind in _FIXED and element.kind != "uuid":
            self.line(f"if {n} > 0: ")
            self.line(f"    {self.add}(pack_many(f'>{{{n}}}{_FIXED[element.kind]}', *{v}))")
            return
        e = self.fresh("e")
        self.line(f"for {e} in {v}:")
        self.depth += 1
        if element.kind == "struct":
            assert element.struct is not None
            self.write_struct(element.struct, e)
        else:
            self.write_value(element, e, False)
        self.flush()
        self.depth -= 1

    def write_inner_struct(self, cls: type[Any], value: str, nullable: bool) -> None:
        v = self.fresh("v")
        self.line(f"{v} = {value}")
        if not nullable:
            self.write_struct(cls, v)
            return
        self.flush()
        self.line(f"if {v} is None:")
        self.line(f"    {self.add}(b'\\xff')")
        self.line("else:")
        self.depth += 1
        self.line(f"{self.add}(b'\\x01')")
        self.write_struct(cls, v)
        self.flush()
        self.depth -= 1

    def write_tags(self, tagged: list[WireField], value: str) -> None:
        """The section is gathered aside: its count comes first, each size before its value."""
        self.flush()
        section = self.fresh("section")
        self.line(f"{section} = []")
        for field in tagged:
            v, inner = self.fresh("v"), self.fresh("inner")
            nullable = _nullable(field, self.version)
            self.line(f"{v} = {value}.{field.name}")
            self.line(self.differs(field, v, nullable))
            self.depth += 1
            self.line(f"{inner} = []")
            outer, self.add = self.add, f"{inner}.append"
            self.write_value(field.type, v, nullable)
            self.flush()
            self.add = outer
            self.line(f"{inner} = b''.join({inner})")
            tag = _uvarint(field.tag or 0)
            self.line(f"{section}.append({tag!r} + uvarint(len({inner})) + {inner})")
            self.depth -= 1
        self.line(f"if {section}:")
        self.line(f"    {self.add}(uvarint(len({section})))")
        self.line(f"    out_{section} = b''.join({section})")
        self.line(f"    {self.add}(out_{section})")
        self.line("else:")
        self.line(f"    {self.add}(b'\\0')")

    def differs(self, field: WireField, v: str, nullable: bool) -> str:
        """The test for a value other than the default. An empty array may be a list or a tuple."""
        default = _default(field)
        if field.type.kind == "array" and default is not None and not len(default):
            return f"if {v} is None or len({v}):" if nullable else f"if len({v}):"
        d = self.constant("D", default)
        return f"if {v} is not {d} and {v} != {d}:"


@functools.cache
def _writer(cls: type[Any], version: int) -> Callable[..., Any]:
    return _Writer(cls, version).compile("write")


def writer_source(cls: type[Any], version: int) -> str:
    """The text that the writer of `cls` in `version` is compiled from."""
    return _Writer(cls, version).text()
