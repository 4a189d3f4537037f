"""What can go wrong with the local stack; each message names the cause and the remedy."""


class StackError(Exception):
    """Base of all; the environment is at fault, so a retry or an installation may help."""


class MissingProgram(StackError):
    """A program or platform that a part needs is not here."""


class FetchFailed(StackError):
    """Jars or an environment could not be fetched or assembled."""


class PortBusy(StackError):
    """A port that a part needs is held by another process."""


class StartFailed(StackError):
    """A part ended, or was not ready in time; the message ends with the tail of its log."""


class Unreachable(StackError):
    """A server that was given by its address does not answer."""


class AnotherAtWork(StackError):
    """Another `up` or `down` holds the lock of this home."""


class DamagedState(StackError):
    """A file under `run/` is not what we wrote."""


class DeclarationError(StackError):
    """A declaration (`topics.yaml`, `schema.cql`) is missing or malformed."""
