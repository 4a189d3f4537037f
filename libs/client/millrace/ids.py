"""Ids for callers whose users and items have names: the same text is the same id everywhere, for ever."""

from xxhash import xxh3_64_intdigest

_ZERO_BECOMES = 1  # 0 means "absent" on the wire; the hash of about one text in 1.8e19 is 0


def stable_id(text: str) -> int:
    """The unsigned 64-bit id of `text`: xxh3_64 of its UTF-8 bytes, never 0.

    Text is taken as it is: normalise case and Unicode before, if yours varies. Two of a million texts share an id
    with probability 3e-8.

    Raises:
        ValueError: the text is empty; an absent id is 0, not the id of nothing.

    Example:
        >>> from millrace.ids import stable_id
        >>> stable_id("user-42") == stable_id("user-42")
        True
    """
    if not text:
        raise ValueError("text: is empty; an absent id is 0")
    return xxh3_64_intdigest(text.encode()) or _ZERO_BECOMES
