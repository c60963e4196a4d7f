"""The bench: a resident baseline, its cached evidence, and edits applied in place and undone."""
