"""Shipped data: tiers, profiles, suites, presets, tuned parameters and JSON Schemas."""
