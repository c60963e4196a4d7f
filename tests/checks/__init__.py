"""Tests of the checks on losses, and the facts and policies they share."""
