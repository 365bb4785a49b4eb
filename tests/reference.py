"""NumPy loops in float64, written from the paper's equations; nothing of the package.

Axes as in the package: horizon H, starts N, critics C, members E, sequence T, batch B,
groups S, classes K.
"""

import math

import numpy as np


def n_step_return(reward, value, start, steps, discount):
    """V_n at s^start: n discounted rewards, then the value of where they lead."""
    total = sum(discount**k * reward[start + k] for k in range(steps))
    return total + discount**steps * value[start + steps]


def lambda_return(reward, value, start, discount, lambda_):
    """Eq. 4 as the paper's sum over n-step returns, n = 1 .. H - t.

    G^t = (1 - lambda) sum_n lambda^{n-1} V_n^t + lambda^{H-t-1} V_{H-t}^t.
    """
    longest = len(reward) - start
    if longest == 0:
        return value[start]
    total = 0.0
    for steps in range(1, longest):
        weight = (1 - lambda_) * lambda_ ** (steps - 1)
        total += weight * n_step_return(reward, value, start, steps, discount)
    last = n_step_return(reward, value, start, longest, discount)
    return total + lambda_ ** (longest - 1) * last


def lambda_returns(reward, value, discount, lambda_):
    """G^0 .. G^H of rewards [H, ...] and values [H + 1, ...]."""
    reward, value = np.asarray(reward, np.float64), np.asarray(value, np.float64)
    return np.stack(
        [
            lambda_return(reward, value, start, discount, lambda_)
            for start in range(len(value))
        ]
    )


def actor_value_loss(reward, value, discount, lambda_, weights=None):
    """Eq. 5: - mean over t < H and starts of lambda G^t + (1 - lambda) V^t."""
    horizon, starts = reward.shape
    returns = lambda_returns(reward, value, discount, lambda_)
    total = 0.0
    for t in range(horizon):
        weight = 1.0 if weights is None else weights[t]
        for n in range(starts):
            mixture = lambda_ * returns[t, n] + (1 - lambda_) * value[t, n]
            total += weight * mixture
    return -total / (horizon * starts)


def imagined_critic_loss(q_values, target):
    """Eq. 6 averaged over critics: q [C, H, N] against G [H, N]."""
    total = 0.0
    for critic in range(q_values.shape[0]):
        for t in range(target.shape[0]):
            for n in range(target.shape[1]):
                total += (q_values[critic, t, n] - target[t, n]) ** 2
    return total / q_values.size


def recorded_targets(
    recorded_reward, is_terminal, start_return, start_value, discount, lambda_
):
    """Eq. 7's targets of rows j < T - 1, all arguments [T, B], of the rows themselves.

    r_{j+1} + discount ((1 - lambda) V(s_{j+1}) + lambda G(s_{j+1})), where the process
    did not end at j + 1.
    """
    length, size = recorded_reward.shape
    target = np.zeros((length - 1, size))
    for j in range(length - 1):
        for b in range(size):
            following = (1 - lambda_) * start_value[j + 1, b]
            following += lambda_ * start_return[j + 1, b]
            if is_terminal[j + 1, b]:
                following = 0.0
            target[j, b] = recorded_reward[j + 1, b] + discount * following
    return target


def recorded_critic_loss(q_values, target, is_first):
    """Eq. 7 averaged over critics and rows that are followed in their own episode."""
    errors = []
    for j in range(target.shape[0]):
        for b in range(target.shape[1]):
            if is_first[j + 1, b]:
                continue
            errors.extend((q_values[:, j, b] - target[j, b]) ** 2)
    return float(np.mean(errors))


def disagreement(logits, normalise):
    """Eq. 2: mean deviation over members of all logits, [E, N, S, K] -> [N]."""
    members, rows, groups, classes = logits.shape
    values = np.array(logits, np.float64)
    if normalise:
        for index in np.ndindex(members, rows, groups):
            values[index] -= math.log(sum(math.exp(v) for v in values[index]))
    result = np.zeros(rows)
    for n in range(rows):
        for s in range(groups):
            for k in range(classes):
                column = values[:, n, s, k]
                center = sum(column) / members
                variance = sum((v - center) ** 2 for v in column) / members
                result[n] += math.sqrt(variance)
    return result / (groups * classes)


def softmax(logits):
    shifted = np.exp(logits - np.max(logits, axis=-1, keepdims=True))
    return shifted / np.sum(shifted, axis=-1, keepdims=True)


def categorical_kl(left_logits, right_logits):
    """KL(left || right) in nats over the last axis, summed over the one before it."""
    left, right = softmax(left_logits), softmax(right_logits)
    return np.sum(left * (np.log(left) - np.log(right)), axis=(-2, -1))


def numerical_gradient(function, point, step=1e-6):
    """Central differences of a scalar function of a float64 array."""
    point = np.asarray(point, np.float64)
    gradient = np.zeros_like(point)
    for index in np.ndindex(point.shape):
        ahead, behind = point.copy(), point.copy()
        ahead[index] += step
        behind[index] -= step
        gradient[index] = (function(ahead) - function(behind)) / (2 * step)
    return gradient


def log_density_deviation(logits, index):
    """LOMPO's penalty: deviation over members of log p_i(z), [E, N, S, K] -> [N].

    index: [N, S], the class of z in each group.
    """
    members, rows, groups, _ = logits.shape
    result = np.zeros(rows)
    for n in range(rows):
        density = np.zeros(members)
        for member, s in np.ndindex(members, groups):
            values = [float(value) for value in logits[member, n, s]]
            normaliser = math.log(sum(math.exp(value) for value in values))
            density[member] += values[index[n, s]] - normaliser
        center = sum(density) / members
        result[n] = math.sqrt(sum((d - center) ** 2 for d in density) / members)
    return result


def conservative_gap(sampled_value, log_density, data_value, pushed_down, pushed_up):
    """CQL(H)'s gap with importance weights, [C, M, N] and [C, N], mean over critics.

    log (1 / M) sum_m exp Q(s, a_m) / mu(a_m | s) over one set of rows, less the data's
    Q over another; no rows are 0.
    """
    critics, count, rows = sampled_value.shape
    down, up = [], []
    for critic, n in np.ndindex(critics, rows):
        if pushed_down[n]:
            total = sum(
                math.exp(sampled_value[critic, m, n]) / math.exp(log_density[m, n])
                for m in range(count)
            )
            down.append(math.log(total / count))
        if pushed_up[n]:
            up.append(data_value[critic, n])
    return sum(down) / max(len(down), 1) - sum(up) / max(len(up), 1)


def truncated_normal_log_density(action, mean, std):
    """log density of a normal cut to [-1, 1], summed over the last axis, [N, A]."""
    result = np.zeros(action.shape[0])
    for n, a in np.ndindex(*action.shape):
        low, high = ((edge - mean[n, a]) / std[n, a] for edge in (-1.0, 1.0))
        mass = 0.5 * (math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2)))
        standard = (action[n, a] - mean[n, a]) / std[n, a]
        density = math.exp(-0.5 * standard**2) / math.sqrt(2 * math.pi)
        result[n] += math.log(density / (std[n, a] * mass))
    return result


def bellman_targets(reward, continues, value, discount):
    """r + discount * min_i Q_i(s', a') where the process goes on, [N] and [C, N]."""
    target = np.zeros(len(reward))
    for n in range(len(reward)):
        target[n] = reward[n] + discount * continues[n] * min(value[:, n])
    return target
