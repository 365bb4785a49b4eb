"""A dot to be moved onto a target: what a stranger's environment may look like."""

import gymnasium
import numpy as np

SIZE = 64


class Dot(gymnasium.Env):
    """Two numbers move the dot; on the target the reward is 1 and the episode ends."""

    observation_space = gymnasium.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
    action_space = gymnasium.spaces.Box(-3.0, 3.0, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.dot = self.np_random.uniform(8.0, 20.0, 2)
        self.target = self.np_random.uniform(40.0, 56.0, 2)
        return self.draw(), {}

    def step(self, action):
        self.dot = np.clip(self.dot + action, 4.0, SIZE - 4.0)
        reached = bool(np.linalg.norm(self.dot - self.target) < 6.0)
        return self.draw(), float(reached), reached, False, {}

    def draw(self):
        image = np.zeros((SIZE, SIZE, 3), np.uint8)
        for colour, (x, y) in enumerate((self.dot, self.target)):
            image[int(y) - 3 : int(y) + 3, int(x) - 3 : int(x) + 3, colour] = 255
        return image


gymnasium.register("Dot-v0", entry_point=Dot, max_episode_steps=50)
