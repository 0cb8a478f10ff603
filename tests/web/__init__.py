"""Tests of dlba.web."""
