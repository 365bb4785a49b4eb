"""The kitchen in miniature: flat, on the device, in JAX."""
