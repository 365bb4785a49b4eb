"""After the run: what its files say, what its model believes, and pictures of both."""
