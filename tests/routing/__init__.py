"""Tests of dlba.routing."""
