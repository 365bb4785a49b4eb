"""Programs: train, evaluate, make datasets, draw figures."""
