"""Tests of dlba.election."""
