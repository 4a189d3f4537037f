"""What can be wrong with a model bundle."""


class BundleError(Exception):
    """Root of this package's errors. The message names the file or field, and the remedy."""


class ManifestError(BundleError):
    """`manifest.json` is missing, is no JSON, or a field of it is wrong."""


class IntegrityError(BundleError):
    """A file is missing, changed or extra: the folder is not what was written."""


class SignatureError(BundleError):
    """Not signed, signed by a key that is not trusted, or other files than these were signed."""


class AdmissionError(BundleError):
    """An ONNX graph that we do not serve: foreign operators, external data, too large, wrong inputs or outputs."""


class GoldenError(BundleError):
    """The golden rows do not give the recorded scores."""


class ScoringError(BundleError):
    """A graph refused its inputs, or answered something that is not one finite score a row."""


class DeviceError(BundleError):
    """A graph was to run on a device that is not there."""
