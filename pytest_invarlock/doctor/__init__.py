"""What ``invarlock doctor`` looks at."""
