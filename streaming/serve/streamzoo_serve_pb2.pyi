from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Control(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONTROL_UNSPECIFIED: _ClassVar[Control]
    PAUSE: _ClassVar[Control]
    GO: _ClassVar[Control]
    FINISH: _ClassVar[Control]
    CLOSE: _ClassVar[Control]
CONTROL_UNSPECIFIED: Control
PAUSE: Control
GO: Control
FINISH: Control
CLOSE: Control

class ClientMessage(_message.Message):
    __slots__ = ("open", "resume", "frame", "ack", "skip", "control")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    SKIP_FIELD_NUMBER: _ClassVar[int]
    CONTROL_FIELD_NUMBER: _ClassVar[int]
    open: Open
    resume: Resume
    frame: Frame
    ack: int
    skip: int
    control: Control
    def __init__(self, open: _Optional[_Union[Open, _Mapping]] = ..., resume: _Optional[_Union[Resume, _Mapping]] = ..., frame: _Optional[_Union[Frame, _Mapping]] = ..., ack: _Optional[int] = ..., skip: _Optional[int] = ..., control: _Optional[_Union[Control, str]] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("name", "fps", "policy", "budget_ms", "capacity", "sound")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FPS_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    BUDGET_MS_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    SOUND_FIELD_NUMBER: _ClassVar[int]
    name: str
    fps: float
    policy: str
    budget_ms: float
    capacity: int
    sound: bool
    def __init__(self, name: _Optional[str] = ..., fps: _Optional[float] = ..., policy: _Optional[str] = ..., budget_ms: _Optional[float] = ..., capacity: _Optional[int] = ..., sound: _Optional[bool] = ...) -> None: ...

class Resume(_message.Message):
    __slots__ = ("token", "after", "sound")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    SOUND_FIELD_NUMBER: _ClassVar[int]
    token: str
    after: int
    sound: bool
    def __init__(self, token: _Optional[str] = ..., after: _Optional[int] = ..., sound: _Optional[bool] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("index", "jpeg", "rgb", "pcm", "height", "width", "time", "event")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    JPEG_FIELD_NUMBER: _ClassVar[int]
    RGB_FIELD_NUMBER: _ClassVar[int]
    PCM_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    index: int
    jpeg: bytes
    rgb: bytes
    pcm: bytes
    height: int
    width: int
    time: float
    event: bool
    def __init__(self, index: _Optional[int] = ..., jpeg: _Optional[bytes] = ..., rgb: _Optional[bytes] = ..., pcm: _Optional[bytes] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., time: _Optional[float] = ..., event: _Optional[bool] = ...) -> None: ...

class ServerMessage(_message.Message):
    __slots__ = ("opened", "result", "credits", "missed", "error", "end", "words", "maybe")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    CREDITS_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    MAYBE_FIELD_NUMBER: _ClassVar[int]
    opened: Opened
    result: Result
    credits: Credits
    missed: int
    error: Error
    end: End
    words: Words
    maybe: Maybe
    def __init__(self, opened: _Optional[_Union[Opened, _Mapping]] = ..., result: _Optional[_Union[Result, _Mapping]] = ..., credits: _Optional[_Union[Credits, _Mapping]] = ..., missed: _Optional[int] = ..., error: _Optional[_Union[Error, _Mapping]] = ..., end: _Optional[_Union[End, _Mapping]] = ..., words: _Optional[_Union[Words, _Mapping]] = ..., maybe: _Optional[_Union[Maybe, _Mapping]] = ...) -> None: ...

class Opened(_message.Message):
    __slots__ = ("session", "token", "resumed", "next", "credits", "last", "paused", "ttl", "keep", "height", "width", "classes", "model", "task", "rate", "language")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    CREDITS_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    session: str
    token: str
    resumed: bool
    next: int
    credits: Credits
    last: int
    paused: bool
    ttl: float
    keep: int
    height: int
    width: int
    classes: _containers.RepeatedScalarFieldContainer[str]
    model: str
    task: str
    rate: int
    language: str
    def __init__(self, session: _Optional[str] = ..., token: _Optional[str] = ..., resumed: _Optional[bool] = ..., next: _Optional[int] = ..., credits: _Optional[_Union[Credits, _Mapping]] = ..., last: _Optional[int] = ..., paused: _Optional[bool] = ..., ttl: _Optional[float] = ..., keep: _Optional[int] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., classes: _Optional[_Iterable[str]] = ..., model: _Optional[str] = ..., task: _Optional[str] = ..., rate: _Optional[int] = ..., language: _Optional[str] = ...) -> None: ...

class Credits(_message.Message):
    __slots__ = ("limit", "durable")
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    DURABLE_FIELD_NUMBER: _ClassVar[int]
    limit: int
    durable: int
    def __init__(self, limit: _Optional[int] = ..., durable: _Optional[int] = ...) -> None: ...

class Score(_message.Message):
    __slots__ = ("name", "score")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    name: str
    score: float
    def __init__(self, name: _Optional[str] = ..., score: _Optional[float] = ...) -> None: ...

class Person(_message.Message):
    __slots__ = ("box", "score", "classes")
    BOX_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    box: _containers.RepeatedScalarFieldContainer[float]
    score: float
    classes: _containers.RepeatedCompositeFieldContainer[Score]
    def __init__(self, box: _Optional[_Iterable[float]] = ..., score: _Optional[float] = ..., classes: _Optional[_Iterable[_Union[Score, _Mapping]]] = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ("seq", "index", "time", "latency_ms", "model_ms", "classes", "persons", "output", "event", "reset", "error", "credits")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    MODEL_MS_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    PERSONS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    RESET_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    CREDITS_FIELD_NUMBER: _ClassVar[int]
    seq: int
    index: int
    time: float
    latency_ms: float
    model_ms: float
    classes: _containers.RepeatedCompositeFieldContainer[Score]
    persons: _containers.RepeatedCompositeFieldContainer[Person]
    output: _struct_pb2.Struct
    event: bool
    reset: bool
    error: str
    credits: Credits
    def __init__(self, seq: _Optional[int] = ..., index: _Optional[int] = ..., time: _Optional[float] = ..., latency_ms: _Optional[float] = ..., model_ms: _Optional[float] = ..., classes: _Optional[_Iterable[_Union[Score, _Mapping]]] = ..., persons: _Optional[_Iterable[_Union[Person, _Mapping]]] = ..., output: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., event: _Optional[bool] = ..., reset: _Optional[bool] = ..., error: _Optional[str] = ..., credits: _Optional[_Union[Credits, _Mapping]] = ...) -> None: ...

class Word(_message.Message):
    __slots__ = ("text", "start", "end")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    text: str
    start: float
    end: float
    def __init__(self, text: _Optional[str] = ..., start: _Optional[float] = ..., end: _Optional[float] = ...) -> None: ...

class Words(_message.Message):
    __slots__ = ("seq", "utterance", "heard", "words", "final", "start", "end", "text", "credits")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    UTTERANCE_FIELD_NUMBER: _ClassVar[int]
    HEARD_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    FINAL_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    CREDITS_FIELD_NUMBER: _ClassVar[int]
    seq: int
    utterance: int
    heard: float
    words: _containers.RepeatedCompositeFieldContainer[Word]
    final: bool
    start: float
    end: float
    text: str
    credits: Credits
    def __init__(self, seq: _Optional[int] = ..., utterance: _Optional[int] = ..., heard: _Optional[float] = ..., words: _Optional[_Iterable[_Union[Word, _Mapping]]] = ..., final: _Optional[bool] = ..., start: _Optional[float] = ..., end: _Optional[float] = ..., text: _Optional[str] = ..., credits: _Optional[_Union[Credits, _Mapping]] = ...) -> None: ...

class Maybe(_message.Message):
    __slots__ = ("utterance", "text")
    UTTERANCE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    utterance: int
    text: str
    def __init__(self, utterance: _Optional[int] = ..., text: _Optional[str] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("code", "message", "index")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    index: int
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ..., index: _Optional[int] = ...) -> None: ...

class End(_message.Message):
    __slots__ = ("reason", "frames", "samples")
    REASON_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    reason: str
    frames: _struct_pb2.Struct
    samples: _struct_pb2.Struct
    def __init__(self, reason: _Optional[str] = ..., frames: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., samples: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...
