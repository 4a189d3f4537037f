"""Attributes of users and items: from messages to numbers and category codes."""

import math
from collections.abc import Mapping

import xxhash
from millrace.events.v1 import events_pb2 as pb

from definitions.plan import Side
from definitions.usecase import UseCase

_CODE_BITS = 0x7FFF_FFFF
_LARGEST = 3.4e38  # float32 ends at 3.4028e38


def category_code(text: str) -> int:
    """The code of a category's text: low 31 bits of xxh3_64 of its UTF-8, never 0 (0 = absent)."""
    return (xxhash.xxh3_64_intdigest(text.encode()) & _CODE_BITS) or 1


def codes_of(value: pb.AttributeValue) -> list[int]:
    """Category codes in their order; whole numbers are codes as they are, text is hashed, anything else is absent."""
    match value.WhichOneof("kind"):
        case "categories":
            return list(value.categories.codes)
        case "text":
            return [category_code(value.text)] if value.text else []
        case "number" if value.number.is_integer() and 0 <= value.number < 2**32:
            return [int(value.number)]
    return []


def number_of(value: pb.AttributeValue) -> float:
    """The number, or NaN (absent) where there is none that a float32 column can hold."""
    if value.WhichOneof("kind") != "number" or not abs(value.number) <= _LARGEST:
        return math.nan
    return value.number


def read_attributes(side: Side, attributes: Mapping[str, pb.AttributeValue]) -> tuple[list[float], list[int]]:
    """What the side stores of a message: numbers (NaN = absent), and codes (0 = absent) padded to their widths."""
    numbers = [number_of(attributes[name]) if name in attributes else math.nan for name in side.numbers]
    codes = [0] * side.code_width
    for name, slots in side.codes.items():
        if name in attributes:
            found = codes_of(attributes[name])[: slots.width]
            codes[slots.start : slots.start + len(found)] = found
    return numbers, codes


def main_category(usecase: UseCase, item: pb.Item) -> int:
    """The code that the collector stamps on an item's events: the first of its category attribute, 0 if none."""
    name = usecase.category_attribute
    if name is None or name not in item.attributes:
        return 0
    return next(iter(codes_of(item.attributes[name])), 0)
