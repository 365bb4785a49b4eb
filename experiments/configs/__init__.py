"""Configurations: `base` has every key, the others are differences from it."""
