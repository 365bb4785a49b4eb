"""Sweeps: the paper's figures as tables of runs, here or on a cluster."""
