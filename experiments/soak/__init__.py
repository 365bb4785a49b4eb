"""What moto_jax promises, tried so often that the counts mean something.

A row of the table is a promise and a kind of fault from outside: a killed process, a
full disk, a flipped bit, a hostile file. `python -m experiments.soak` tries the rows.
"""
