"""Tests of DLBA; the folders mirror dlba/."""
