"""Tells twistd that there is a command `dlba`.

The module is named as a string, so that `twistd --help` imports nothing of DLBA. There must be
no `__init__.py` beside this file or above it: it would hide the plugin, or all of Twisted.
"""

from twisted.application.service import ServiceMaker

dlba = ServiceMaker(
    "DLBA",
    "dlba.tap",
    "One node of a DLBA array: terminates TLS and balances requests over web servers.",
    "dlba",
)
