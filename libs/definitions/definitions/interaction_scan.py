"""Scans Interaction values into columns. Written by `python -m definitions.scan_source`; never edited."""

import numpy as np

from definitions.compiled import kernel
from definitions.wire import Bytes, Flags, Ints, Longs, Words, field_end, load_byte, load_i64, load_u32, varint


@kernel
def scan(
    data: Bytes,
    starts: Ints,
    sizes: Ints,
    doubtful: Flags,
    event_id: Longs,
    user_id: Longs,
    item_id: Longs,
    action: Words,
    value: Words,
    event_time_us: Longs,
    request_id: Longs,
    position: Words,
    session_id: Longs,
    device: Words,
    surface: Words,
    country: Words,
    category: Words,
) -> int:
    """Write the fields of n values into columns; an absent field is 0, of a repeated one the last counts.

    Args:
        data: uint8 (bytes,), where the values lie.
        starts, sizes: int32 (n,); size -1 = null.
        doubtful: bool (n,), written: True where protobuf must judge (cut, or too unusual to be read here).
        event_id and the others: (n,), written; fixed64 as its bits, float as its bits, 0 where doubtful.

    Returns:
        How many are doubtful.
    """
    doubts = 0
    here = data.ctypes.data
    for index in range(len(starts)):
        at = here + int(starts[index])
        end = at + int(sizes[index])
        whole = sizes[index] >= 0
        _event_id = np.int64(0)
        _user_id = np.int64(0)
        _item_id = np.int64(0)
        _action = np.uint32(0)
        _value = np.uint32(0)
        _event_time_us = np.int64(0)
        _request_id = np.int64(0)
        _position = np.uint32(0)
        _session_id = np.int64(0)
        _device = np.uint32(0)
        _surface = np.uint32(0)
        _country = np.uint32(0)
        _category = np.uint32(0)
        while at < end:
            tag = load_byte(at)
            if tag == 9:
                if end - at < 9:
                    whole = False
                    break
                _event_id = load_i64(at + 1)
                at += 9
            elif tag == 17:
                if end - at < 9:
                    whole = False
                    break
                _user_id = load_i64(at + 1)
                at += 9
            elif tag == 25:
                if end - at < 9:
                    whole = False
                    break
                _item_id = load_i64(at + 1)
                at += 9
            elif tag == 32:
                bits, at = varint(at + 1, end)
                if at < 0:
                    whole = False
                    break
                _action = np.uint32(bits)
            elif tag == 45:
                if end - at < 5:
                    whole = False
                    break
                _value = load_u32(at + 1)
                at += 5
            elif tag == 49:
                if end - at < 9:
                    whole = False
                    break
                _event_time_us = load_i64(at + 1)
                at += 9
            elif tag == 57:
                if end - at < 9:
                    whole = False
                    break
                _request_id = load_i64(at + 1)
                at += 9
            elif tag == 64:
                bits, at = varint(at + 1, end)
                if at < 0:
                    whole = False
                    break
                _position = np.uint32(bits)
            elif tag == 73:
                if end - at < 9:
                    whole = False
                    break
                _session_id = load_i64(at + 1)
                at += 9
            elif tag == 80:
                bits, at = varint(at + 1, end)
                if at < 0:
                    whole = False
                    break
                _device = np.uint32(bits)
            elif tag == 88:
                bits, at = varint(at + 1, end)
                if at < 0:
                    whole = False
                    break
                _surface = np.uint32(bits)
            elif tag == 96:
                bits, at = varint(at + 1, end)
                if at < 0:
                    whole = False
                    break
                _country = np.uint32(bits)
            elif tag == 104:
                bits, at = varint(at + 1, end)
                if at < 0:
                    whole = False
                    break
                _category = np.uint32(bits)
            else:
                at = field_end(at, end)
                if at < 0:
                    whole = False
                    break
        doubtful[index] = not whole
        if whole:
            event_id[index] = _event_id
            user_id[index] = _user_id
            item_id[index] = _item_id
            action[index] = _action
            value[index] = _value
            event_time_us[index] = _event_time_us
            request_id[index] = _request_id
            position[index] = _position
            session_id[index] = _session_id
            device[index] = _device
            surface[index] = _surface
            country[index] = _country
            category[index] = _category
        else:
            doubts += 1
            event_id[index] = 0
            user_id[index] = 0
            item_id[index] = 0
            action[index] = 0
            value[index] = 0
            event_time_us[index] = 0
            request_id[index] = 0
            position[index] = 0
            session_id[index] = 0
            device[index] = 0
            surface[index] = 0
            country[index] = 0
            category[index] = 0
    return doubts
