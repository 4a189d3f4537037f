"""What servicekit raises. Foreign errors are translated into these at one boundary each."""


class ServiceKitError(Exception):
    """Base of all errors of this package."""


class LogError(ServiceKitError):
    """The log (Kafka) could not do what was asked."""


class LogUnavailable(LogError):
    """No broker answered in time, or it cannot take writes now. A retry may help; whether a write landed is unknown."""


class UnknownTopic(LogError):
    """The topic does not exist. Topics are declared in `infra/kafka/topics.yaml` and applied by `millrace up`."""


class RecordTooLarge(LogError):
    """A record is larger than the topic takes. A retry never helps."""


class OffsetGone(LogError):
    """The wanted offset is not on the log (retention removed it, or it is another log). A retry never helps."""


class CorruptLog(LogError):
    """The broker sent a batch that fails its checksum. A retry may help if the fault was on the wire."""


class LogRefused(LogError):
    """The broker refused for good: rights, version, configuration. The message is the broker's."""


class Stalled(LogError):
    """The log has records that reading did not bring for too long, three times over. A restart reconnects."""


class ProducerBroken(LogError):
    """The idempotent producer lost its sequence and can send nothing more: close it and make a new one."""


class HandlerFailed(ServiceKitError):
    """A `TopicReader`'s handler raised; the reader has stopped. The cause is chained."""


class FailpointReached(ServiceKitError):
    """A test armed this place with `raise`."""
