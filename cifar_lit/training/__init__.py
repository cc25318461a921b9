"""One training: its run folder, checkpoints, signals, processes."""
