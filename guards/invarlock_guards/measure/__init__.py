"""Measures: from two models to evidence; these need torch."""
