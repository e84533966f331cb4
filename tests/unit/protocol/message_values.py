"""Random messages of any class and version, and how to compare what was read with what was sent.

What a version lacks is left at its default, as a reader leaves it. `plain` reduces a value to
lists, dicts and primitives, since a reader makes lists where the defaults are tuples.
"""

import random
import uuid

import attrs

from zkafka.protocol.fields import NULL_UUID, schema_of

RANGES = {
    "int8": (-(2**7), 2**7 - 1),
    "int16": (-(2**15), 2**15 - 1),
    "uint16": (0, 2**16 - 1),
    "int32": (-(2**31), 2**31 - 1),
    "uint32": (0, 2**32 - 1),
    "int64": (-(2**63), 2**63 - 1),
}
TEXTS = ("", "a", "orders", "ünïcode-日本", "x" * 126, "y" * 127, "z" * 300)


def present(cls, version):
    """The fields that this version has, in the order of the declaration."""
    return [f for f in schema_of(cls).fields if f.since <= version <= f.until]


def has_null(field, version):
    return field.nullable_since is not None and version >= field.nullable_since


def make(rng, cls, version, *, length=3, integer=None):
    """A message with random values in the fields that `version` has.

    `integer(rng, field, low, high)` may choose the integers.
    """
    values = {}
    for field in present(cls, version):
        if field.tag is not None and rng.random() < 0.4:
            continue  # at its default, so left out
        values[field.name] = (
            None
            if has_null(field, version) and rng.random() < 0.2
            else _value(rng, field, field.type, version, length, integer)
        )
    return cls(**values)


def _value(rng, field, wire, version, length, integer):
    match wire.kind:
        case "bool":
            return rng.random() < 0.5
        case "float64":
            return rng.uniform(-1e9, 1e9)
        case "uuid":
            return NULL_UUID if rng.random() < 0.2 else uuid.UUID(int=rng.getrandbits(128))
        case "string":
            return rng.choice(TEXTS)
        case "bytes" | "records":
            return rng.randbytes(rng.choice((0, 1, 126, 127, 300)))
        case "struct":
            return make(rng, wire.struct, version, length=length, integer=integer)
        case "array":
            count = rng.choice((0, 1, length)) if rng.random() < 0.98 else 130
            if wire.element.kind == "struct" and count > length:
                count = length
            return [
                _value(rng, field, wire.element, version, length - 1 if length > 1 else 1, integer)
                for _ in range(count)
            ]
    low, high = RANGES[wire.kind]
    if integer is not None:
        return integer(rng, field, low, high)
    return rng.choice((0, 1, -1 if low else 2, low, high, rng.randint(low, high)))


def plain(value):
    """A value without its containers' types."""
    if attrs.has(type(value)):
        return {a.name: plain(getattr(value, a.name)) for a in attrs.fields(type(value))}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, memoryview | bytearray):
        return bytes(value)
    return value


def seeded(*names):
    return random.Random("/".join(map(str, names)))
