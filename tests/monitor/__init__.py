"""Tests of dlba.monitor."""
