"""Places to learn in: everything that knows what a kitchen is."""
