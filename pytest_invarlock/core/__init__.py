"""The engine: from a pair, a scenario and a plan to a record."""
