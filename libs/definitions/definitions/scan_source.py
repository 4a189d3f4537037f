"""Writes the column scanner of a scalar message from its descriptor: `python -m definitions.scan_source`.

The result is committed, so that numba can keep what it compiled; a test writes it again and compares.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from millrace.events.v1 import events_pb2 as pb

TARGET: Final = Path(__file__).parent / "interaction_scan.py"

_VARINT, _FIXED64, _FIXED32 = 0, 1, 5
_WIRE_TYPES: Final[Mapping[int, int]] = {
    FieldDescriptor.TYPE_UINT32: _VARINT,
    FieldDescriptor.TYPE_FIXED64: _FIXED64,
    FieldDescriptor.TYPE_SFIXED64: _FIXED64,
    FieldDescriptor.TYPE_FLOAT: _FIXED32,
}
_MOST_NUMBER: Final = 15  # a tag of one byte

_HEAD: Final = '''"""Scans {name} values into columns. Written by `python -m definitions.scan_source`; never edited."""

import numpy as np

from definitions.compiled import kernel
from definitions.wire import Bytes, Flags, Ints, Longs, Words, field_end, load_byte, load_i64, load_u32, varint


@kernel
def scan(
    data: Bytes,
    starts: Ints,
    sizes: Ints,
    doubtful: Flags,
{parameters}
) -> int:
    """Write the fields of n values into columns; an absent field is 0, of a repeated one the last counts.

    Args:
        data: uint8 (bytes,), where the values lie.
        starts, sizes: int32 (n,); size -1 = null.
        doubtful: bool (n,), written: True where protobuf must judge (cut, or too unusual to be read here).
        {first} and the others: (n,), written; fixed64 as its bits, float as its bits, 0 where doubtful.

    Returns:
        How many are doubtful.
    """
    doubts = 0
    here = data.ctypes.data
    for index in range(len(starts)):
        at = here + int(starts[index])
        end = at + int(sizes[index])
        whole = sizes[index] >= 0
{clear}
        while at < end:
            tag = load_byte(at)
'''

_TAIL: Final = """\
            else:
                at = field_end(at, end)
                if at < 0:
                    whole = False
                    break
        doubtful[index] = not whole
        if whole:
{store}
        else:
            doubts += 1
{zero}
    return doubts
"""


def scanner_source(message: type[Message]) -> str:
    """Source of a module whose `scan` reads messages of this type.

    Raises:
        ValueError: a field is no scalar that scanners read, or its number is above 15.
    """
    descriptor = message.DESCRIPTOR
    fields = cast("list[FieldDescriptor]", descriptor.fields)
    for field in fields:
        if field.type not in _WIRE_TYPES or field.is_repeated or field.number > _MOST_NUMBER:
            raise ValueError(
                f"{descriptor.name}.{field.name}: a scanner reads single uint32, fixed64, sfixed64 and float fields "
                f"numbered 1 to {_MOST_NUMBER}; read this message with protobuf"
            )
    wire_types = {field.name: _WIRE_TYPES[field.type] for field in fields}
    lines = [
        _HEAD.format(
            name=descriptor.name,
            first=fields[0].name,
            parameters="\n".join(
                f"    {name}: {'Longs' if wire == _FIXED64 else 'Words'}," for name, wire in wire_types.items()
            ),
            clear="\n".join(f"        _{name} = {_zero(wire)}" for name, wire in wire_types.items()),
        )
    ]
    for place, field in enumerate(fields):
        lines.append(_read(field, "if" if place == 0 else "elif"))
    lines.append(
        _TAIL.format(
            store="\n".join(f"            {name}[index] = _{name}" for name in wire_types),
            zero="\n".join(f"            {name}[index] = 0" for name in wire_types),
        )
    )
    return "".join(lines)


def _zero(wire_type: int) -> str:
    return "np.int64(0)" if wire_type == _FIXED64 else "np.uint32(0)"


def _read(field: FieldDescriptor, word: str) -> str:
    wire_type = _WIRE_TYPES[field.type]
    tag = field.number << 3 | wire_type
    if wire_type == _VARINT:
        return f"""\
            {word} tag == {tag}:
                bits, at = varint(at + 1, end)
                if at < 0:
                    whole = False
                    break
                _{field.name} = np.uint32(bits)
"""
    size, take = (8, "load_i64") if wire_type == _FIXED64 else (4, "load_u32")
    return f"""\
            {word} tag == {tag}:
                if end - at < {size + 1}:
                    whole = False
                    break
                _{field.name} = {take}(at + 1)
                at += {size + 1}
"""


if __name__ == "__main__":
    TARGET.write_text(scanner_source(pb.Interaction))
