"""What ``invarlock doctor`` looks at: files, models, data and machine, before a run."""
