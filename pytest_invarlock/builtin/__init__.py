"""Data only: two small language models and held-out text, each described in its README."""
