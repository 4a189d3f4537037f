from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Rung(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RUNG_UNSPECIFIED: _ClassVar[Rung]
    RUNG_MODEL: _ClassVar[Rung]
    RUNG_LOCAL_MODEL: _ClassVar[Rung]
    RUNG_PRECOMPUTED: _ClassVar[Rung]
    RUNG_POPULAR: _ClassVar[Rung]

class DeadLetterReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DEAD_LETTER_REASON_UNSPECIFIED: _ClassVar[DeadLetterReason]
    DEAD_LETTER_REASON_MALFORMED: _ClassVar[DeadLetterReason]
    DEAD_LETTER_REASON_WRONG_KEY: _ClassVar[DeadLetterReason]
    DEAD_LETTER_REASON_FUTURE_TIME: _ClassVar[DeadLetterReason]
    DEAD_LETTER_REASON_MISSING_ID: _ClassVar[DeadLetterReason]
    DEAD_LETTER_REASON_UNKNOWN_ACTION: _ClassVar[DeadLetterReason]
    DEAD_LETTER_REASON_INVALID_VALUE: _ClassVar[DeadLetterReason]
    DEAD_LETTER_REASON_TOO_LARGE: _ClassVar[DeadLetterReason]
    DEAD_LETTER_REASON_CORRUPT_BATCH: _ClassVar[DeadLetterReason]
RUNG_UNSPECIFIED: Rung
RUNG_MODEL: Rung
RUNG_LOCAL_MODEL: Rung
RUNG_PRECOMPUTED: Rung
RUNG_POPULAR: Rung
DEAD_LETTER_REASON_UNSPECIFIED: DeadLetterReason
DEAD_LETTER_REASON_MALFORMED: DeadLetterReason
DEAD_LETTER_REASON_WRONG_KEY: DeadLetterReason
DEAD_LETTER_REASON_FUTURE_TIME: DeadLetterReason
DEAD_LETTER_REASON_MISSING_ID: DeadLetterReason
DEAD_LETTER_REASON_UNKNOWN_ACTION: DeadLetterReason
DEAD_LETTER_REASON_INVALID_VALUE: DeadLetterReason
DEAD_LETTER_REASON_TOO_LARGE: DeadLetterReason
DEAD_LETTER_REASON_CORRUPT_BATCH: DeadLetterReason

class Interaction(_message.Message):
    __slots__ = ("event_id", "user_id", "item_id", "action", "value", "event_time_us", "request_id", "position", "session_id", "device", "surface", "country", "category")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_US_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    SURFACE_FIELD_NUMBER: _ClassVar[int]
    COUNTRY_FIELD_NUMBER: _ClassVar[int]
    CATEGORY_FIELD_NUMBER: _ClassVar[int]
    event_id: int
    user_id: int
    item_id: int
    action: int
    value: float
    event_time_us: int
    request_id: int
    position: int
    session_id: int
    device: int
    surface: int
    country: int
    category: int
    def __init__(self, event_id: _Optional[int] = ..., user_id: _Optional[int] = ..., item_id: _Optional[int] = ..., action: _Optional[int] = ..., value: _Optional[float] = ..., event_time_us: _Optional[int] = ..., request_id: _Optional[int] = ..., position: _Optional[int] = ..., session_id: _Optional[int] = ..., device: _Optional[int] = ..., surface: _Optional[int] = ..., country: _Optional[int] = ..., category: _Optional[int] = ...) -> None: ...

class CategoryCodes(_message.Message):
    __slots__ = ("codes",)
    CODES_FIELD_NUMBER: _ClassVar[int]
    codes: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, codes: _Optional[_Iterable[int]] = ...) -> None: ...

class AttributeValue(_message.Message):
    __slots__ = ("number", "categories", "text")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    CATEGORIES_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    number: float
    categories: CategoryCodes
    text: str
    def __init__(self, number: _Optional[float] = ..., categories: _Optional[_Union[CategoryCodes, _Mapping]] = ..., text: _Optional[str] = ...) -> None: ...

class Item(_message.Message):
    __slots__ = ("id", "external_id", "attributes", "embedding", "deleted")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: AttributeValue
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[AttributeValue, _Mapping]] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_ID_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    DELETED_FIELD_NUMBER: _ClassVar[int]
    id: int
    external_id: str
    attributes: _containers.MessageMap[str, AttributeValue]
    embedding: _containers.RepeatedScalarFieldContainer[float]
    deleted: bool
    def __init__(self, id: _Optional[int] = ..., external_id: _Optional[str] = ..., attributes: _Optional[_Mapping[str, AttributeValue]] = ..., embedding: _Optional[_Iterable[float]] = ..., deleted: _Optional[bool] = ...) -> None: ...

class User(_message.Message):
    __slots__ = ("id", "external_id", "attributes", "embedding", "deleted")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: AttributeValue
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[AttributeValue, _Mapping]] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_ID_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    DELETED_FIELD_NUMBER: _ClassVar[int]
    id: int
    external_id: str
    attributes: _containers.MessageMap[str, AttributeValue]
    embedding: _containers.RepeatedScalarFieldContainer[float]
    deleted: bool
    def __init__(self, id: _Optional[int] = ..., external_id: _Optional[str] = ..., attributes: _Optional[_Mapping[str, AttributeValue]] = ..., embedding: _Optional[_Iterable[float]] = ..., deleted: _Optional[bool] = ...) -> None: ...

class Context(_message.Message):
    __slots__ = ("device", "surface", "country", "session_id", "time_us")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    SURFACE_FIELD_NUMBER: _ClassVar[int]
    COUNTRY_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    TIME_US_FIELD_NUMBER: _ClassVar[int]
    device: int
    surface: int
    country: int
    session_id: int
    time_us: int
    def __init__(self, device: _Optional[int] = ..., surface: _Optional[int] = ..., country: _Optional[int] = ..., session_id: _Optional[int] = ..., time_us: _Optional[int] = ...) -> None: ...

class RowVersion(_message.Message):
    __slots__ = ("epoch", "interactions_offset", "users_offset")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    INTERACTIONS_OFFSET_FIELD_NUMBER: _ClassVar[int]
    USERS_OFFSET_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    interactions_offset: int
    users_offset: int
    def __init__(self, epoch: _Optional[int] = ..., interactions_offset: _Optional[int] = ..., users_offset: _Optional[int] = ...) -> None: ...

class ItemMarker(_message.Message):
    __slots__ = ("partition", "offset")
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    partition: int
    offset: int
    def __init__(self, partition: _Optional[int] = ..., offset: _Optional[int] = ...) -> None: ...

class StageTiming(_message.Message):
    __slots__ = ("stage", "micros")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    MICROS_FIELD_NUMBER: _ClassVar[int]
    stage: str
    micros: int
    def __init__(self, stage: _Optional[str] = ..., micros: _Optional[int] = ...) -> None: ...

class Impression(_message.Message):
    __slots__ = ("request_id", "user_id", "time_us", "usecase", "item_ids", "scores", "propensities", "positions", "features", "int_features", "layout_hash", "row", "item_markers", "model_name", "model_version", "rung", "arm", "context", "deadline_ms", "stages", "reasons", "model_digest", "rules", "rule_codes", "unknown", "candidates")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    TIME_US_FIELD_NUMBER: _ClassVar[int]
    USECASE_FIELD_NUMBER: _ClassVar[int]
    ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    PROPENSITIES_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    INT_FEATURES_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_HASH_FIELD_NUMBER: _ClassVar[int]
    ROW_FIELD_NUMBER: _ClassVar[int]
    ITEM_MARKERS_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    RUNG_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    RULE_CODES_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    user_id: int
    time_us: int
    usecase: str
    item_ids: _containers.RepeatedScalarFieldContainer[int]
    scores: _containers.RepeatedScalarFieldContainer[float]
    propensities: _containers.RepeatedScalarFieldContainer[float]
    positions: _containers.RepeatedScalarFieldContainer[int]
    features: bytes
    int_features: bytes
    layout_hash: int
    row: RowVersion
    item_markers: _containers.RepeatedCompositeFieldContainer[ItemMarker]
    model_name: str
    model_version: int
    rung: Rung
    arm: str
    context: Context
    deadline_ms: int
    stages: _containers.RepeatedCompositeFieldContainer[StageTiming]
    reasons: _containers.RepeatedScalarFieldContainer[str]
    model_digest: str
    rules: str
    rule_codes: bytes
    unknown: _containers.RepeatedScalarFieldContainer[bool]
    candidates: int
    def __init__(self, request_id: _Optional[int] = ..., user_id: _Optional[int] = ..., time_us: _Optional[int] = ..., usecase: _Optional[str] = ..., item_ids: _Optional[_Iterable[int]] = ..., scores: _Optional[_Iterable[float]] = ..., propensities: _Optional[_Iterable[float]] = ..., positions: _Optional[_Iterable[int]] = ..., features: _Optional[bytes] = ..., int_features: _Optional[bytes] = ..., layout_hash: _Optional[int] = ..., row: _Optional[_Union[RowVersion, _Mapping]] = ..., item_markers: _Optional[_Iterable[_Union[ItemMarker, _Mapping]]] = ..., model_name: _Optional[str] = ..., model_version: _Optional[int] = ..., rung: _Optional[_Union[Rung, str]] = ..., arm: _Optional[str] = ..., context: _Optional[_Union[Context, _Mapping]] = ..., deadline_ms: _Optional[int] = ..., stages: _Optional[_Iterable[_Union[StageTiming, _Mapping]]] = ..., reasons: _Optional[_Iterable[str]] = ..., model_digest: _Optional[str] = ..., rules: _Optional[str] = ..., rule_codes: _Optional[bytes] = ..., unknown: _Optional[_Iterable[bool]] = ..., candidates: _Optional[int] = ...) -> None: ...

class DeadLetter(_message.Message):
    __slots__ = ("topic", "partition", "offset", "reason", "detail", "raw", "raw_key")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    RAW_KEY_FIELD_NUMBER: _ClassVar[int]
    topic: str
    partition: int
    offset: int
    reason: DeadLetterReason
    detail: str
    raw: bytes
    raw_key: bytes
    def __init__(self, topic: _Optional[str] = ..., partition: _Optional[int] = ..., offset: _Optional[int] = ..., reason: _Optional[_Union[DeadLetterReason, str]] = ..., detail: _Optional[str] = ..., raw: _Optional[bytes] = ..., raw_key: _Optional[bytes] = ...) -> None: ...
