from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DecisionKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DECISION_KIND_UNSPECIFIED: _ClassVar[DecisionKind]
    DECISION_KIND_DEPLOY: _ClassVar[DecisionKind]
    DECISION_KIND_ROLLBACK: _ClassVar[DecisionKind]
    DECISION_KIND_PROMOTION: _ClassVar[DecisionKind]
    DECISION_KIND_REFUSAL: _ClassVar[DecisionKind]
    DECISION_KIND_POINTER_FLIP: _ClassVar[DecisionKind]
    DECISION_KIND_EXPERIMENT: _ClassVar[DecisionKind]
    DECISION_KIND_CANARY: _ClassVar[DecisionKind]
    DECISION_KIND_SHADOW: _ClassVar[DecisionKind]
    DECISION_KIND_RULES: _ClassVar[DecisionKind]
DECISION_KIND_UNSPECIFIED: DecisionKind
DECISION_KIND_DEPLOY: DecisionKind
DECISION_KIND_ROLLBACK: DecisionKind
DECISION_KIND_PROMOTION: DecisionKind
DECISION_KIND_REFUSAL: DecisionKind
DECISION_KIND_POINTER_FLIP: DecisionKind
DECISION_KIND_EXPERIMENT: DecisionKind
DECISION_KIND_CANARY: DecisionKind
DECISION_KIND_SHADOW: DecisionKind
DECISION_KIND_RULES: DecisionKind

class ModelPin(_message.Message):
    __slots__ = ("name", "version", "digest", "layout_hash", "revision", "triton_name")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_HASH_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    TRITON_NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    digest: str
    layout_hash: int
    revision: int
    triton_name: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., digest: _Optional[str] = ..., layout_hash: _Optional[int] = ..., revision: _Optional[int] = ..., triton_name: _Optional[str] = ...) -> None: ...

class ServingState(_message.Message):
    __slots__ = ("pin", "previous", "champion", "canary", "shadow", "rules", "rules_version", "experiments")
    PIN_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    CHAMPION_FIELD_NUMBER: _ClassVar[int]
    CANARY_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    RULES_VERSION_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENTS_FIELD_NUMBER: _ClassVar[int]
    pin: ModelPin
    previous: ModelPin
    champion: ModelPin
    canary: Canary
    shadow: Shadow
    rules: str
    rules_version: int
    experiments: _containers.RepeatedCompositeFieldContainer[Experiment]
    def __init__(self, pin: _Optional[_Union[ModelPin, _Mapping]] = ..., previous: _Optional[_Union[ModelPin, _Mapping]] = ..., champion: _Optional[_Union[ModelPin, _Mapping]] = ..., canary: _Optional[_Union[Canary, _Mapping]] = ..., shadow: _Optional[_Union[Shadow, _Mapping]] = ..., rules: _Optional[str] = ..., rules_version: _Optional[int] = ..., experiments: _Optional[_Iterable[_Union[Experiment, _Mapping]]] = ...) -> None: ...

class Canary(_message.Message):
    __slots__ = ("pin", "percent", "since_us", "guardrails")
    PIN_FIELD_NUMBER: _ClassVar[int]
    PERCENT_FIELD_NUMBER: _ClassVar[int]
    SINCE_US_FIELD_NUMBER: _ClassVar[int]
    GUARDRAILS_FIELD_NUMBER: _ClassVar[int]
    pin: ModelPin
    percent: float
    since_us: int
    guardrails: Guardrails
    def __init__(self, pin: _Optional[_Union[ModelPin, _Mapping]] = ..., percent: _Optional[float] = ..., since_us: _Optional[int] = ..., guardrails: _Optional[_Union[Guardrails, _Mapping]] = ...) -> None: ...

class Guardrails(_message.Message):
    __slots__ = ("max_error_excess", "max_p99_ratio", "max_score_psi")
    MAX_ERROR_EXCESS_FIELD_NUMBER: _ClassVar[int]
    MAX_P99_RATIO_FIELD_NUMBER: _ClassVar[int]
    MAX_SCORE_PSI_FIELD_NUMBER: _ClassVar[int]
    max_error_excess: float
    max_p99_ratio: float
    max_score_psi: float
    def __init__(self, max_error_excess: _Optional[float] = ..., max_p99_ratio: _Optional[float] = ..., max_score_psi: _Optional[float] = ...) -> None: ...

class Shadow(_message.Message):
    __slots__ = ("pin", "share")
    PIN_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    pin: ModelPin
    share: float
    def __init__(self, pin: _Optional[_Union[ModelPin, _Mapping]] = ..., share: _Optional[float] = ...) -> None: ...

class Experiment(_message.Message):
    __slots__ = ("name", "layer", "arms", "since_us", "segments", "primary", "planned_users", "control", "interleaved")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    ARMS_FIELD_NUMBER: _ClassVar[int]
    SINCE_US_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    PRIMARY_FIELD_NUMBER: _ClassVar[int]
    PLANNED_USERS_FIELD_NUMBER: _ClassVar[int]
    CONTROL_FIELD_NUMBER: _ClassVar[int]
    INTERLEAVED_FIELD_NUMBER: _ClassVar[int]
    name: str
    layer: str
    arms: _containers.RepeatedCompositeFieldContainer[Arm]
    since_us: int
    segments: _containers.RepeatedCompositeFieldContainer[Segment]
    primary: str
    planned_users: int
    control: str
    interleaved: bool
    def __init__(self, name: _Optional[str] = ..., layer: _Optional[str] = ..., arms: _Optional[_Iterable[_Union[Arm, _Mapping]]] = ..., since_us: _Optional[int] = ..., segments: _Optional[_Iterable[_Union[Segment, _Mapping]]] = ..., primary: _Optional[str] = ..., planned_users: _Optional[int] = ..., control: _Optional[str] = ..., interleaved: _Optional[bool] = ...) -> None: ...

class Segment(_message.Message):
    __slots__ = ("begin", "end")
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    begin: float
    end: float
    def __init__(self, begin: _Optional[float] = ..., end: _Optional[float] = ...) -> None: ...

class Arm(_message.Message):
    __slots__ = ("name", "share", "pin", "rules")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    PIN_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    name: str
    share: float
    pin: ModelPin
    rules: str
    def __init__(self, name: _Optional[str] = ..., share: _Optional[float] = ..., pin: _Optional[_Union[ModelPin, _Mapping]] = ..., rules: _Optional[str] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("usecase", "kind", "reason", "actor", "time_us", "state", "revision")
    USECASE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    TIME_US_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    usecase: str
    kind: DecisionKind
    reason: str
    actor: str
    time_us: int
    state: ServingState
    revision: int
    def __init__(self, usecase: _Optional[str] = ..., kind: _Optional[_Union[DecisionKind, str]] = ..., reason: _Optional[str] = ..., actor: _Optional[str] = ..., time_us: _Optional[int] = ..., state: _Optional[_Union[ServingState, _Mapping]] = ..., revision: _Optional[int] = ...) -> None: ...
