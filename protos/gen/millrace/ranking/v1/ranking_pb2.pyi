from millrace.events.v1 import events_pb2 as _events_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Priority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRIORITY_UNSPECIFIED: _ClassVar[Priority]
    PRIORITY_INTERACTIVE: _ClassVar[Priority]
    PRIORITY_PREFETCH: _ClassVar[Priority]
    PRIORITY_BATCH: _ClassVar[Priority]
PRIORITY_UNSPECIFIED: Priority
PRIORITY_INTERACTIVE: Priority
PRIORITY_PREFETCH: Priority
PRIORITY_BATCH: Priority

class RankRequest(_message.Message):
    __slots__ = ("usecase", "user_id", "item_ids", "limit", "context", "priority", "min_interactions_offset")
    USECASE_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    MIN_INTERACTIONS_OFFSET_FIELD_NUMBER: _ClassVar[int]
    usecase: str
    user_id: int
    item_ids: _containers.RepeatedScalarFieldContainer[int]
    limit: int
    context: _events_pb2.Context
    priority: Priority
    min_interactions_offset: int
    def __init__(self, usecase: _Optional[str] = ..., user_id: _Optional[int] = ..., item_ids: _Optional[_Iterable[int]] = ..., limit: _Optional[int] = ..., context: _Optional[_Union[_events_pb2.Context, _Mapping]] = ..., priority: _Optional[_Union[Priority, str]] = ..., min_interactions_offset: _Optional[int] = ...) -> None: ...

class RecommendRequest(_message.Message):
    __slots__ = ("usecase", "user_id", "limit", "context", "exclude_ids", "priority", "min_interactions_offset")
    USECASE_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_IDS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    MIN_INTERACTIONS_OFFSET_FIELD_NUMBER: _ClassVar[int]
    usecase: str
    user_id: int
    limit: int
    context: _events_pb2.Context
    exclude_ids: _containers.RepeatedScalarFieldContainer[int]
    priority: Priority
    min_interactions_offset: int
    def __init__(self, usecase: _Optional[str] = ..., user_id: _Optional[int] = ..., limit: _Optional[int] = ..., context: _Optional[_Union[_events_pb2.Context, _Mapping]] = ..., exclude_ids: _Optional[_Iterable[int]] = ..., priority: _Optional[_Union[Priority, str]] = ..., min_interactions_offset: _Optional[int] = ...) -> None: ...

class RankedItem(_message.Message):
    __slots__ = ("item_id", "score", "position", "reason")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    item_id: int
    score: float
    position: int
    reason: str
    def __init__(self, item_id: _Optional[int] = ..., score: _Optional[float] = ..., position: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class RankResponse(_message.Message):
    __slots__ = ("request_id", "items", "model_name", "model_version", "served_by", "arm", "feature_age_us", "row", "stages", "reason")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    SERVED_BY_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    FEATURE_AGE_US_FIELD_NUMBER: _ClassVar[int]
    ROW_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    items: _containers.RepeatedCompositeFieldContainer[RankedItem]
    model_name: str
    model_version: int
    served_by: _events_pb2.Rung
    arm: str
    feature_age_us: int
    row: _events_pb2.RowVersion
    stages: _containers.RepeatedCompositeFieldContainer[_events_pb2.StageTiming]
    reason: str
    def __init__(self, request_id: _Optional[int] = ..., items: _Optional[_Iterable[_Union[RankedItem, _Mapping]]] = ..., model_name: _Optional[str] = ..., model_version: _Optional[int] = ..., served_by: _Optional[_Union[_events_pb2.Rung, str]] = ..., arm: _Optional[str] = ..., feature_age_us: _Optional[int] = ..., row: _Optional[_Union[_events_pb2.RowVersion, _Mapping]] = ..., stages: _Optional[_Iterable[_Union[_events_pb2.StageTiming, _Mapping]]] = ..., reason: _Optional[str] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("usecase", "request_id", "user_id", "item_ids", "context", "top")
    USECASE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    usecase: str
    request_id: int
    user_id: int
    item_ids: _containers.RepeatedScalarFieldContainer[int]
    context: _events_pb2.Context
    top: int
    def __init__(self, usecase: _Optional[str] = ..., request_id: _Optional[int] = ..., user_id: _Optional[int] = ..., item_ids: _Optional[_Iterable[int]] = ..., context: _Optional[_Union[_events_pb2.Context, _Mapping]] = ..., top: _Optional[int] = ...) -> None: ...

class FeatureContribution(_message.Message):
    __slots__ = ("name", "value", "contribution", "age_us")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    AGE_US_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: float
    contribution: float
    age_us: int
    def __init__(self, name: _Optional[str] = ..., value: _Optional[float] = ..., contribution: _Optional[float] = ..., age_us: _Optional[int] = ...) -> None: ...

class ExplainedItem(_message.Message):
    __slots__ = ("item_id", "score", "raw", "features", "rest", "position")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    REST_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    item_id: int
    score: float
    raw: float
    features: _containers.RepeatedCompositeFieldContainer[FeatureContribution]
    rest: float
    position: int
    def __init__(self, item_id: _Optional[int] = ..., score: _Optional[float] = ..., raw: _Optional[float] = ..., features: _Optional[_Iterable[_Union[FeatureContribution, _Mapping]]] = ..., rest: _Optional[float] = ..., position: _Optional[int] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("items", "base", "method", "model_name", "model_version", "model_digest", "time_us", "row", "arm")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    TIME_US_FIELD_NUMBER: _ClassVar[int]
    ROW_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[ExplainedItem]
    base: float
    method: str
    model_name: str
    model_version: int
    model_digest: str
    time_us: int
    row: _events_pb2.RowVersion
    arm: str
    def __init__(self, items: _Optional[_Iterable[_Union[ExplainedItem, _Mapping]]] = ..., base: _Optional[float] = ..., method: _Optional[str] = ..., model_name: _Optional[str] = ..., model_version: _Optional[int] = ..., model_digest: _Optional[str] = ..., time_us: _Optional[int] = ..., row: _Optional[_Union[_events_pb2.RowVersion, _Mapping]] = ..., arm: _Optional[str] = ...) -> None: ...
