"""The checks on measured losses: each takes facts and policy and gives one decision."""
