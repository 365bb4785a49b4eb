"""Flax modules: pixels in and out, the recurrent model, heads."""
