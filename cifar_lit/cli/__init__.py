"""The command line: options, checks, and where to resume."""
