"""The kitchen: tasks, physics, frames and the scripted demonstrator; free of jax."""
