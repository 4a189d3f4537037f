"""What was served against what the log says: logged features, recomputed point in time.

Every impression names the offsets of the user's row and the marker of each partition's item aggregates. Below those
offsets the recomputation must agree exactly; as of the impression's time it shows how far the online side was behind.
"""

from pipelines.consistency.report import Report, latest
from pipelines.consistency.run import run

__all__ = ["Report", "latest", "run"]
