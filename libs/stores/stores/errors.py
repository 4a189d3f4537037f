"""What the stores raise. Foreign errors are translated into these in each implementation."""


class StoreError(Exception):
    """Base of all errors of this package."""


class StoreUnavailable(StoreError):
    """The store could not be reached or could not do it now. A retry may help; a write may or may not have landed."""


class StoreTimeout(StoreUnavailable):
    """No answer within the caller's time."""


class StoreCorrupt(StoreError):
    """What is stored cannot be read. The message says what to remove and who writes it again."""


class InvalidRow(StoreError):
    """A row that no store takes: the caller's mistake, a retry never helps."""


class NewerWriter(StoreError):
    """Another process has written past this one's position: it owns the partition. End; never retry."""


class UnknownTable(StoreError):
    """The lake has no table of that name. `stores.offline.schemas` declares them."""


class UnknownRun(StoreError):
    """No such run of that use case, or it is not sealed where a sealed one is needed."""


class RunConflict(StoreError):
    """The run exists with other parameters, or is sealed and takes no more rows."""


class VerificationFailed(StoreError):
    """What was read back differs in count or checksum from what was written: the run must not be served."""


class PointerMoved(StoreError):
    """Another process flipped the pointer first. Read it again, then decide."""
