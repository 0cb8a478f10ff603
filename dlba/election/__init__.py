"""The channel between nodes and what it carries: election, table sync, status, keys."""
