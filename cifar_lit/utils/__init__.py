"""Errors, files and hardware: knows nothing of this project."""
