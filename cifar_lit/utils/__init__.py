"""Errors, files and hardware: independent of the other packages."""
