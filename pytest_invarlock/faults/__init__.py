"""Faults: damage injected on purpose, to show that checks can fail."""
