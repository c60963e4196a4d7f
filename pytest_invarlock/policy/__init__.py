"""What is demanded, and where it is written: tiers, profiles, suites, and their YAML."""
