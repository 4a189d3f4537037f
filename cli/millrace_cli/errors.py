"""How a command ends when it does not end well; the exit code tells a script what to do."""


class CommandError(Exception):
    """Base of all. The message goes to the person; `exit_code` to the caller."""

    exit_code = 1


class GateSaidNo(CommandError):
    """The command worked, and the answer is no: a target missed, a check failed, something dead."""

    exit_code = 1


class BadInput(CommandError):
    """An argument, a file or a setting is wrong; a retry will not help."""

    exit_code = 2


class EnvironmentAtFault(CommandError):
    """A server, a program or the network is missing; a retry may help."""

    exit_code = 3
