"""Tests of dlba.config."""
