"""Judges: pure functions from evidence and policy to a result; no torch."""
