"""MOTO: offline to online model-based reinforcement learning from pixels, in JAX."""
