"""What can go wrong with a simulated world."""


class SimulatorError(Exception):
    """Root of this package's errors. The message names what is wrong and the remedy."""


class BadWorld(SimulatorError):
    """A profile, an option or a saved run that cannot be used as it is (exit 2)."""


class StackAway(SimulatorError):
    """The gateway or the collector does not answer (exit 3)."""
