"""Error codes in responses: where they stand, and the answer to a request as a whole when its
handler has none.

Built from the declarations of the messages, so that no API is forgotten. A response with an error
code at its top carries it there. Where a version has none, the code stands in each item, and the
items are the request's: the array of the response that holds codes answers the first array of the
request, level by level, and what names an item is copied (its name, id or number).
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from zkafka.errors import ErrorCode
from zkafka.protocol.codec import Prepared
from zkafka.protocol.fields import WireField, WireType, schema_of

_CODE = "error_code"
_MESSAGE = "error_message"
_PARTITION_NAMES = ("partition_index", "partition", "index", "partition_id")
"""Kafka's messages call a partition's number by all of these."""
_TOPIC_NAMES = ("topic_name", "name", "topic")
_GROUPS = ("dirs",)
"""Arrays of a request whose items only group those of another one, and have no answer."""


def error_response(
    response_class: type[Any], request: Any, version: int, code: ErrorCode, message: str = ""
) -> Any | None:
    """A `response_class` that says `code` about all that `request` asked; None where the response
    has no place for one (the connection is then closed)."""
    if _field(response_class, _CODE, version) is not None:
        return response_class(**_verdict(response_class, version, code, message))
    items = _coded_array(response_class, version)
    if items is None:
        return None
    struct = _element(items)
    return response_class(
        **{items.name: [_item(struct, i, version, code, message) for i in _items(request, version)]}
    )


def codes(response: Any) -> list[int] | Mapping[int, int]:
    """Every error code that a response carries, 0 included; or how often it carries each."""
    if isinstance(response, Prepared):
        return response.codes
    found: list[int] = []
    _gather(response, found)
    return found


def _gather(item: Any, found: list[int]) -> None:
    struct: Any = type(item)
    has_code, arrays = _coded(struct)
    if has_code:
        found.append(item.error_code)
    for name in arrays:
        for inner in getattr(item, name) or ():
            _gather(inner, found)


@functools.cache
def _coded(struct: Any) -> tuple[bool, tuple[str, ...]]:
    """Whether a struct has a code, and its arrays whose items have, whatever the version."""
    fields = schema_of(struct).fields
    arrays = []
    for field in fields:
        of: Any = field.type.element.struct if field.type.element is not None else None
        if of is not None and any(_coded(of)):
            arrays.append(field.name)
    return any(field.name == _CODE for field in fields), tuple(arrays)


def _item(struct: type[Any], asked: Any, version: int, code: ErrorCode, message: str) -> Any:
    """The response's item about `asked`, which is a struct of the request, or a plain name."""
    values: dict[str, Any] = {}
    names = [f for f in schema_of(struct).fields if _in(f, version)]
    if hasattr(asked, "__wire__"):
        for field in names:
            if field.type.kind in ("array", "struct"):
                continue
            given = field.name
            for names_of_it in (_PARTITION_NAMES, _TOPIC_NAMES):
                if given in names_of_it:
                    given = next((n for n in names_of_it if hasattr(asked, n)), given)
            if given != _CODE and hasattr(asked, given):
                values[field.name] = getattr(asked, given)
    else:
        kind = "string" if isinstance(asked, str) else "int32"
        named = next(f for f in names if f.type.kind == kind)
        values[named.name] = asked
    if _field(struct, _CODE, version) is not None:
        values |= _verdict(struct, version, code, message)
    elif (inner := _coded_array(struct, version)) is not None:
        of = _element(inner)
        values[inner.name] = [_item(of, i, version, code, message) for i in _items(asked, version)]
    return struct(**values)


def _verdict(struct: type[Any], version: int, code: ErrorCode, message: str) -> dict[str, Any]:
    values: dict[str, Any] = {_CODE: code}
    if message and _field(struct, _MESSAGE, version) is not None:
        values[_MESSAGE] = message
    return values


def _items(asked: Any, version: int) -> Sequence[Any]:
    """The elements of the first array in `asked`; a null array has none."""
    for field in schema_of(type(asked)).fields:
        if field.type.kind == "array" and _in(field, version):
            found: Sequence[Any] = getattr(asked, field.name) or ()
            if field.name in _GROUPS:
                return [item for group in found for item in _items(group, version)]
            return found
    return ()


def _coded_array(struct: type[Any], version: int) -> WireField | None:
    """The array of structs that carry a code, themselves or further down."""
    for field in schema_of(struct).fields:
        if field.type.kind == "array" and _in(field, version) and _has_code(field.type, version):
            return field
    return None


def _has_code(array: WireType, version: int) -> bool:
    assert array.element is not None
    struct = array.element.struct
    if struct is None:
        return False
    return _field(struct, _CODE, version) is not None or _coded_array(struct, version) is not None


def _element(array: WireField) -> type[Any]:
    assert array.type.element is not None
    struct = array.type.element.struct
    assert struct is not None
    return struct


def _field(struct: type[Any], name: str, version: int) -> WireField | None:
    for field in schema_of(struct).fields:
        if field.name == name and _in(field, version):
            return field
    return None


def _in(field: WireField, version: int) -> bool:
    return field.since <= version <= field.until
