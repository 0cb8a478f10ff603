"""Measures what the proxy really holds for its clients: a walk over the objects, as they are."""

import gc
import sys
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType

from dlba.web.choice import Site, Sites
from dlba.web.pool import Backend, Pool
from dlba.web.proxy import Proxy

#: What all connections share: nothing behind it is one client's.
_SHARED = (Proxy, Site, Sites, Backend, Pool, type, ModuleType, FunctionType)
_BUFFERS = (bytes, bytearray)


def held(*roots: object) -> int:
    """Bytes of memory behind `roots` (connections), buffers and containers with their overhead.

    What is there before the first byte comes is counted too: about 2 KiB a connection.
    """
    seen: set[int] = set()
    todo = list(roots)
    total = 0
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, _SHARED):
            continue
        seen.add(id(one))
        module = type(one).__module__
        if isinstance(one, _BUFFERS):
            total += sys.getsizeof(one)
        elif module.startswith("dlba.web.") or module in ("builtins", "collections"):
            if isinstance(one, (str, int, float, bool, BuiltinFunctionType)):
                continue
            if not isinstance(one, MethodType):
                total += sys.getsizeof(one)
            todo += gc.get_referents(one)
    return total
