"""Lays out what recvmmsg and sendmmsg take: many frames a system call.

An adapter over the C library, since Python has neither call. Layouts: struct iovec, struct msghdr
and struct mmsghdr (bits/types/struct_iovec.h, bits/socket.h), by ctypes with the platform's own
sizes. A `Messages` is made once and used for every batch.
"""

from __future__ import annotations

import ctypes
from typing import Final

__all__ = ["BATCH", "STEP", "Messages", "receive", "send"]

#: Frames of one system call. More bring little.
BATCH: Final = 64


class _Part(ctypes.Structure):
    _fields_ = (("address", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint),
        ("parts", ctypes.c_void_p),
        ("count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    _fields_ = (("header", _Header), ("length", ctypes.c_uint))


# (descriptor, messages, how many, flags, time-out) → how many were moved, or -1 and an errno.
# Neither waits here, so the interpreter need not be let go.
_library = ctypes.PyDLL(None, use_errno=True)
receive, send = _library.recvmmsg, _library.sendmmsg
receive.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
send.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
STEP: Final = ctypes.sizeof(_Message)


class Messages:
    """`BATCH` messages of one part each, as recvmmsg and sendmmsg take them."""

    def __init__(self) -> None:
        parts = bytearray(ctypes.sizeof(_Part) * BATCH)
        messages = bytearray(STEP * BATCH)
        first = ctypes.addressof(_Part.from_buffer(parts))
        for index in range(BATCH):
            header = _Message.from_buffer(messages, index * STEP).header
            header.parts = first + index * ctypes.sizeof(_Part)
            header.count = 1
        self.address = ctypes.addressof(_Message.from_buffer(messages))
        #: Address and length of each part, in turn.
        self.parts = memoryview(parts).cast("P")
        #: Bytes received of each message.
        self.lengths = memoryview(messages).cast("I")[_Message.length.offset // 4 :: STEP // 4]
