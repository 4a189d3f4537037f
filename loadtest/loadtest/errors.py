"""What can end a load test before there is a verdict."""


class LoadTestError(Exception):
    """Base of this package's errors."""


class BadInput(LoadTestError):
    """A value that no run could use; the message names it and what would be right."""


class Unreachable(LoadTestError):
    """Nothing that ranks answers at the target; a retry may help once the stack is up."""


class GeneratorFailed(LoadTestError):
    """The generator's own process ended without a verdict; the message carries its last words."""
