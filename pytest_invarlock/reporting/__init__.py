"""Readers of records: the terminal, junit, Markdown. None of them decides anything."""
