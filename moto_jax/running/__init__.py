"""One run on a host: its loop, its directory, its checkpoints, its numbers."""
