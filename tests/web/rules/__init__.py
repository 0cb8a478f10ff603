"""The rules of web.md over real sockets: one file a rule, the rule's sentences as names of tests.

Every test shows what is on the wire: the exact status line, the exact bytes that the backend got
(or that it got nothing), and what became of the client's connection. `table` holds how that is
asked. Where a sentence is shown elsewhere, the file's docstring names the test that does so.
"""
