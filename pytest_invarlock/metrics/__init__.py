"""Metrics: forward passes over windows, giving arrays."""
