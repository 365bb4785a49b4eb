"""Pure functions of arrays: networks, world model, targets, losses, learners."""
