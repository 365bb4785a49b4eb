"""Episodes on disk, where they come from, and replay."""
