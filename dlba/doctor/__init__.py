"""Tells what on this machine breaks direct return, and how to mend it."""
