from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Predict(_message.Message):
    __slots__ = ("type", "allocation", "ip", "ports", "open", "spray", "token")
    class Type(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNUSED: _ClassVar[Predict.Type]
        OFFER: _ClassVar[Predict.Type]
        GO: _ClassVar[Predict.Type]
    UNUSED: Predict.Type
    OFFER: Predict.Type
    GO: Predict.Type
    class Allocation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNKNOWN: _ClassVar[Predict.Allocation]
        KNOWN: _ClassVar[Predict.Allocation]
        SEQUENTIAL: _ClassVar[Predict.Allocation]
        FRESH: _ClassVar[Predict.Allocation]
        RANDOM: _ClassVar[Predict.Allocation]
    UNKNOWN: Predict.Allocation
    KNOWN: Predict.Allocation
    SEQUENTIAL: Predict.Allocation
    FRESH: Predict.Allocation
    RANDOM: Predict.Allocation
    TYPE_FIELD_NUMBER: _ClassVar[int]
    ALLOCATION_FIELD_NUMBER: _ClassVar[int]
    IP_FIELD_NUMBER: _ClassVar[int]
    PORTS_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    SPRAY_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    type: Predict.Type
    allocation: Predict.Allocation
    ip: bytes
    ports: _containers.RepeatedScalarFieldContainer[int]
    open: bool
    spray: bool
    token: bytes
    def __init__(self, type: _Optional[_Union[Predict.Type, str]] = ..., allocation: _Optional[_Union[Predict.Allocation, str]] = ..., ip: _Optional[bytes] = ..., ports: _Optional[_Iterable[int]] = ..., open: _Optional[bool] = ..., spray: _Optional[bool] = ..., token: _Optional[bytes] = ...) -> None: ...

class Witness(_message.Message):
    __slots__ = ("peer", "ip")
    PEER_FIELD_NUMBER: _ClassVar[int]
    IP_FIELD_NUMBER: _ClassVar[int]
    peer: bytes
    ip: bytes
    def __init__(self, peer: _Optional[bytes] = ..., ip: _Optional[bytes] = ...) -> None: ...

class Testimony(_message.Message):
    __slots__ = ("seen",)
    SEEN_FIELD_NUMBER: _ClassVar[int]
    seen: bool
    def __init__(self, seen: _Optional[bool] = ...) -> None: ...
