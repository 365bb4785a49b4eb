"""A policy plays episodes: worker processes, the device, evaluation; and who is who."""
