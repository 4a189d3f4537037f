"""What can go wrong in the pipelines. The command line turns each into an exit code."""


class PipelineError(Exception):
    """Root of this package's errors. The message names the file, field or service, and the remedy."""


class BadInputError(PipelineError):
    """What the user gave cannot be used (exit 2)."""


class DataFileError(BadInputError):
    """A data file is broken. `str()` names file, row and column, and the remedy.

    Attributes: file, column and row (1-based, the header not counted) where they are known; remedy.
    """

    def __init__(self, file: str, problem: str, remedy: str, *, column: str | None = None, row: int | None = None):
        self.file, self.problem, self.remedy, self.column, self.row = file, problem, remedy, column, row
        place = file + (f", row {row}" if row is not None else "") + (f", column {column!r}" if column else "")
        super().__init__(f"{place}: {problem}. {remedy}")


class UnavailableError(PipelineError):
    """Something outside did not answer; a retry may help (exit 3)."""


class DownloadError(UnavailableError):
    """A public data set could not be fetched, or its bytes are not the expected ones."""


class TrainingError(PipelineError):
    """A training set or a model that cannot be used: too few rows, one class only."""


class LeakError(TrainingError):
    """What was held out, or what lies in a row's future, was there to learn from."""


class ParityError(PipelineError):
    """Exported scores are further from the framework's than `export.parity` allows."""


class RegistryError(PipelineError):
    """The registered model is not the one that was exported."""


class DeployError(PipelineError):
    """A version that serving refused, or that could not be announced. What served before still does."""
