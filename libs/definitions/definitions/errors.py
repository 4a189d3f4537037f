"""What can go wrong in the definitions."""


class DefinitionsError(Exception):
    """Base of every error that this package raises on purpose."""


class UseCaseError(DefinitionsError):
    """A use-case file cannot be used; the message names file, field and remedy."""


class LayoutMismatch(DefinitionsError):
    """Bytes were written under another layout: treat them as missing, and count them."""


class CorruptRow(DefinitionsError):
    """Bytes carry our layout and cannot be read all the same."""
