"""Protobuf's wire format, where bytes are put together by hand (protobuf's encoding guide)."""


def varint(value: int) -> bytes:
    """Base 128, low groups first; `value` from 0 to 2**64 - 1."""
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)
