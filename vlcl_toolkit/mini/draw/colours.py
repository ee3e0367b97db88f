"""Named colours with natural variation."""

import numpy as np

PALETTE = {
    "red": (0.86, 0.12, 0.13),
    "orange": (0.95, 0.52, 0.10),
    "yellow": (0.96, 0.86, 0.18),
    "green": (0.15, 0.62, 0.24),
    "cyan": (0.18, 0.78, 0.82),
    "blue": (0.14, 0.32, 0.84),
    "purple": (0.50, 0.20, 0.66),
    "pink": (0.96, 0.55, 0.72),
    "brown": (0.48, 0.30, 0.15),
    "black": (0.08, 0.08, 0.09),
    "gray": (0.52, 0.52, 0.53),
    "white": (0.96, 0.96, 0.95),
}
COLOUR_NAMES = tuple(PALETTE)
TABLE = np.array(list(PALETTE.values()), dtype=np.float32)


def shade(rng: np.random.Generator, which: np.ndarray, spread: float = 0.05) -> np.ndarray:
    """RGB values [n, 3] of the named colours ``which`` [n], each varied by a standard deviation ``spread``."""
    return np.clip(TABLE[which] + rng.normal(0, spread, (len(which), 3)), 0, 1).astype(np.float32)


def mixture(
    rng: np.random.Generator, n: int, base: tuple[float, float, float], spread: float = 0.06
) -> np.ndarray:
    """RGB values [n, 3] around one base colour."""
    return np.clip(np.asarray(base) + rng.normal(0, spread, (n, 3)), 0, 1).astype(np.float32)


def different(rng: np.random.Generator, from_: np.ndarray, minimum: float = 0.45) -> np.ndarray:
    """Indices [n] of colours that contrast with the colours ``from_`` [n]: RGB distance at least ``minimum``."""
    distance = np.linalg.norm(TABLE[from_][:, None] - TABLE[None], axis=-1)
    score = rng.random(distance.shape) - 10 * (distance < minimum)
    return score.argmax(axis=1)
