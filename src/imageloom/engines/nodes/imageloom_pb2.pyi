from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class JobStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    JOB_RUNNING: _ClassVar[JobStatus]
    JOB_SUCCESS: _ClassVar[JobStatus]
    JOB_FAILURE: _ClassVar[JobStatus]
    JOB_CANCELLED: _ClassVar[JobStatus]

class TaskStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_RUNNING: _ClassVar[TaskStatus]
    TASK_SUCCESS: _ClassVar[TaskStatus]
    TASK_FAILURE: _ClassVar[TaskStatus]
    TASK_REJECTED: _ClassVar[TaskStatus]

class ItemStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ITEM_DONE: _ClassVar[ItemStatus]
    ITEM_FAILED: _ClassVar[ItemStatus]
    ITEM_RETRIED: _ClassVar[ItemStatus]
    ITEM_SKIPPED: _ClassVar[ItemStatus]
JOB_RUNNING: JobStatus
JOB_SUCCESS: JobStatus
JOB_FAILURE: JobStatus
JOB_CANCELLED: JobStatus
TASK_RUNNING: TaskStatus
TASK_SUCCESS: TaskStatus
TASK_FAILURE: TaskStatus
TASK_REJECTED: TaskStatus
ITEM_DONE: ItemStatus
ITEM_FAILED: ItemStatus
ITEM_RETRIED: ItemStatus
ITEM_SKIPPED: ItemStatus

class JobRequest(_message.Message):
    __slots__ = ("id", "source", "sink", "outputs", "decode", "metadata", "operators", "include", "exclude", "if_exists", "retry_failed", "name", "in_place", "tile", "max_pixels", "max_file_size", "max_expansion", "attempts", "detached", "needs", "links", "damage", "colors", "gain_map", "pages", "density")
    ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    SINK_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    DECODE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    OPERATORS_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_FIELD_NUMBER: _ClassVar[int]
    IF_EXISTS_FIELD_NUMBER: _ClassVar[int]
    RETRY_FAILED_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    IN_PLACE_FIELD_NUMBER: _ClassVar[int]
    TILE_FIELD_NUMBER: _ClassVar[int]
    MAX_PIXELS_FIELD_NUMBER: _ClassVar[int]
    MAX_FILE_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_EXPANSION_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    DETACHED_FIELD_NUMBER: _ClassVar[int]
    NEEDS_FIELD_NUMBER: _ClassVar[int]
    LINKS_FIELD_NUMBER: _ClassVar[int]
    DAMAGE_FIELD_NUMBER: _ClassVar[int]
    COLORS_FIELD_NUMBER: _ClassVar[int]
    GAIN_MAP_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    DENSITY_FIELD_NUMBER: _ClassVar[int]
    id: str
    source: str
    sink: str
    outputs: _containers.RepeatedCompositeFieldContainer[Output]
    decode: str
    metadata: str
    operators: _containers.RepeatedScalarFieldContainer[str]
    include: _containers.RepeatedScalarFieldContainer[str]
    exclude: _containers.RepeatedScalarFieldContainer[str]
    if_exists: str
    retry_failed: bool
    name: str
    in_place: bool
    tile: str
    max_pixels: int
    max_file_size: int
    max_expansion: int
    attempts: int
    detached: bool
    needs: _containers.RepeatedScalarFieldContainer[str]
    links: str
    damage: str
    colors: str
    gain_map: str
    pages: str
    density: int
    def __init__(self, id: _Optional[str] = ..., source: _Optional[str] = ..., sink: _Optional[str] = ..., outputs: _Optional[_Iterable[_Union[Output, _Mapping]]] = ..., decode: _Optional[str] = ..., metadata: _Optional[str] = ..., operators: _Optional[_Iterable[str]] = ..., include: _Optional[_Iterable[str]] = ..., exclude: _Optional[_Iterable[str]] = ..., if_exists: _Optional[str] = ..., retry_failed: _Optional[bool] = ..., name: _Optional[str] = ..., in_place: _Optional[bool] = ..., tile: _Optional[str] = ..., max_pixels: _Optional[int] = ..., max_file_size: _Optional[int] = ..., max_expansion: _Optional[int] = ..., attempts: _Optional[int] = ..., detached: _Optional[bool] = ..., needs: _Optional[_Iterable[str]] = ..., links: _Optional[str] = ..., damage: _Optional[str] = ..., colors: _Optional[str] = ..., gain_map: _Optional[str] = ..., pages: _Optional[str] = ..., density: _Optional[int] = ...) -> None: ...

class Output(_message.Message):
    __slots__ = ("pipeline", "folder", "format", "quality", "subsampling", "options")
    PIPELINE_FIELD_NUMBER: _ClassVar[int]
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    SUBSAMPLING_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    pipeline: str
    folder: str
    format: str
    quality: int
    subsampling: str
    options: str
    def __init__(self, pipeline: _Optional[str] = ..., folder: _Optional[str] = ..., format: _Optional[str] = ..., quality: _Optional[int] = ..., subsampling: _Optional[str] = ..., options: _Optional[str] = ...) -> None: ...

class JobQuery(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class ListQuery(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class JobList(_message.Message):
    __slots__ = ("jobs",)
    JOBS_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[JobEntry]
    def __init__(self, jobs: _Optional[_Iterable[_Union[JobEntry, _Mapping]]] = ...) -> None: ...

class JobEntry(_message.Message):
    __slots__ = ("receipt", "waits", "source", "sink", "pipeline")
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    WAITS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    SINK_FIELD_NUMBER: _ClassVar[int]
    PIPELINE_FIELD_NUMBER: _ClassVar[int]
    receipt: JobReceipt
    waits: bool
    source: str
    sink: str
    pipeline: str
    def __init__(self, receipt: _Optional[_Union[JobReceipt, _Mapping]] = ..., waits: _Optional[bool] = ..., source: _Optional[str] = ..., sink: _Optional[str] = ..., pipeline: _Optional[str] = ...) -> None: ...

class JobReceipt(_message.Message):
    __slots__ = ("id", "status", "message", "job", "done", "failed", "skipped", "seconds", "exit_code", "items", "lost", "dropped", "damaged", "incomplete", "left_out")
    class DroppedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class LeftOutEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    DAMAGED_FIELD_NUMBER: _ClassVar[int]
    INCOMPLETE_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    id: str
    status: JobStatus
    message: str
    job: int
    done: int
    failed: int
    skipped: int
    seconds: float
    exit_code: int
    items: _containers.RepeatedCompositeFieldContainer[ItemReceipt]
    lost: int
    dropped: _containers.ScalarMap[str, int]
    damaged: int
    incomplete: int
    left_out: _containers.ScalarMap[str, int]
    def __init__(self, id: _Optional[str] = ..., status: _Optional[_Union[JobStatus, str]] = ..., message: _Optional[str] = ..., job: _Optional[int] = ..., done: _Optional[int] = ..., failed: _Optional[int] = ..., skipped: _Optional[int] = ..., seconds: _Optional[float] = ..., exit_code: _Optional[int] = ..., items: _Optional[_Iterable[_Union[ItemReceipt, _Mapping]]] = ..., lost: _Optional[int] = ..., dropped: _Optional[_Mapping[str, int]] = ..., damaged: _Optional[int] = ..., incomplete: _Optional[int] = ..., left_out: _Optional[_Mapping[str, int]] = ...) -> None: ...

class ItemReceipt(_message.Message):
    __slots__ = ("status", "key", "attempt", "worker", "failure", "message", "reason", "pause", "written", "times", "dropped", "warnings")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PAUSE_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_FIELD_NUMBER: _ClassVar[int]
    TIMES_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    status: ItemStatus
    key: str
    attempt: int
    worker: str
    failure: str
    message: str
    reason: str
    pause: float
    written: _containers.RepeatedCompositeFieldContainer[WrittenFile]
    times: Times
    dropped: _containers.RepeatedScalarFieldContainer[str]
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, status: _Optional[_Union[ItemStatus, str]] = ..., key: _Optional[str] = ..., attempt: _Optional[int] = ..., worker: _Optional[str] = ..., failure: _Optional[str] = ..., message: _Optional[str] = ..., reason: _Optional[str] = ..., pause: _Optional[float] = ..., written: _Optional[_Iterable[_Union[WrittenFile, _Mapping]]] = ..., times: _Optional[_Union[Times, _Mapping]] = ..., dropped: _Optional[_Iterable[str]] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class WrittenFile(_message.Message):
    __slots__ = ("name", "size")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    name: str
    size: int
    def __init__(self, name: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...

class Times(_message.Message):
    __slots__ = ("read", "decode", "filter", "encode", "write")
    READ_FIELD_NUMBER: _ClassVar[int]
    DECODE_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    ENCODE_FIELD_NUMBER: _ClassVar[int]
    WRITE_FIELD_NUMBER: _ClassVar[int]
    read: float
    decode: float
    filter: float
    encode: float
    write: float
    def __init__(self, read: _Optional[float] = ..., decode: _Optional[float] = ..., filter: _Optional[float] = ..., encode: _Optional[float] = ..., write: _Optional[float] = ...) -> None: ...

class NodeNotice(_message.Message):
    __slots__ = ("address", "leaving")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    LEAVING_FIELD_NUMBER: _ClassVar[int]
    address: str
    leaving: bool
    def __init__(self, address: _Optional[str] = ..., leaving: _Optional[bool] = ...) -> None: ...

class NodeNoticeReceipt(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TaskRequest(_message.Message):
    __slots__ = ("task", "must_accept", "together")
    TASK_FIELD_NUMBER: _ClassVar[int]
    MUST_ACCEPT_FIELD_NUMBER: _ClassVar[int]
    TOGETHER_FIELD_NUMBER: _ClassVar[int]
    task: bytes
    must_accept: bool
    together: bool
    def __init__(self, task: _Optional[bytes] = ..., must_accept: _Optional[bool] = ..., together: _Optional[bool] = ...) -> None: ...

class TaskReceipt(_message.Message):
    __slots__ = ("status", "message", "results", "load")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    status: TaskStatus
    message: str
    results: _containers.RepeatedScalarFieldContainer[bytes]
    load: float
    def __init__(self, status: _Optional[_Union[TaskStatus, str]] = ..., message: _Optional[str] = ..., results: _Optional[_Iterable[bytes]] = ..., load: _Optional[float] = ...) -> None: ...

class NodeQuery(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class NodeStatus(_message.Message):
    __slots__ = ("limit", "load", "in_hand", "leaving", "acceptance", "version")
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    IN_HAND_FIELD_NUMBER: _ClassVar[int]
    LEAVING_FIELD_NUMBER: _ClassVar[int]
    ACCEPTANCE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    limit: int
    load: float
    in_hand: int
    leaving: bool
    acceptance: str
    version: str
    def __init__(self, limit: _Optional[int] = ..., load: _Optional[float] = ..., in_hand: _Optional[int] = ..., leaving: _Optional[bool] = ..., acceptance: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...
