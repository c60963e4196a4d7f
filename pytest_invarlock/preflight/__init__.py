"""What is asked before anything heavy is loaded: revisions, code, memory and disk."""
