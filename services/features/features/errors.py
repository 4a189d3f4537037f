"""What the features service raises. What leaves the loop ends the process; a restart replays from the checkpoint."""


class FeaturesError(Exception):
    """Base of all errors of this service."""


class LeaseLost(FeaturesError):
    """Another worker has taken this partition (a higher epoch). End: its rows win."""


class OffsetGone(FeaturesError):
    """Retention has removed an offset that the state needs, or the log is another one. A restart never helps."""


class UnevenPartitions(FeaturesError):
    """`interactions` and `users` of a use case must have the same number of partitions."""


class CheckpointUnusable(FeaturesError):
    """A checkpoint is damaged, or of another layout."""


class CheckpointUnwritable(FeaturesError):
    """A checkpoint cannot be written now (a full disk, say). The loop goes on, not ready, and tries again."""


class PublishFailed(FeaturesError):
    """Item partials could not be written to `item-features`. The loop goes on, not ready, and sends them again."""


class StoreAhead(FeaturesError):
    """The online store holds rows of a newer epoch than the checkpoints know."""


class NoAnswer(FeaturesError):
    """The loop did not come to a request in time."""
