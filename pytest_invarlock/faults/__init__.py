"""Faults, injected on purpose to show that checks can fail, and controls that must not fail."""
