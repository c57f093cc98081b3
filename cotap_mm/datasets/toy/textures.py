"""Shapes and textures of the objects in ``ToyScenes``.

Shapes are signed distance functions of local coordinates: negative inside, about one unit per
object radius. Textures map local coordinates to a field in [0, 1] that later blends two grays, so
that brightness does not depend on the texture.
"""

from __future__ import annotations

import math

import numpy as np
import scipy


def disc(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Disc of radius 1."""
    return np.hypot(x, y) - 1.0


def square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Square with half side 0.85, about as large as the disc."""
    return np.maximum(np.abs(x), np.abs(y)) - 0.85


def triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Equilateral triangle with inner radius 0.6."""
    height = 0.5 * y
    return (
        np.maximum(-y, np.maximum(height + math.sqrt(0.75) * x, height - math.sqrt(0.75) * x)) - 0.6
    )


def star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Star with five soft points, radius 0.5 to 1.1."""
    return np.hypot(x, y) - 0.8 - 0.3 * np.cos(5.0 * np.arctan2(y, x))


def ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Ring between the radii 0.3 and 1.1."""
    return np.abs(np.hypot(x, y) - 0.7) - 0.4


def cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Plus sign of arm length 1.1 and arm width 1."""
    x, y = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(x - 1.1, y - 0.5), np.maximum(x - 0.5, y - 1.1))


def _soft_step(wave: np.ndarray) -> np.ndarray:
    """Map [-1, 1] to [0, 1] with steep but antialiased edges."""
    return 0.5 + 0.5 * np.tanh(3.0 * wave)


def stripes(u: np.ndarray, v: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Straight stripes, one period per unit."""
    return _soft_step(np.sin(2.0 * math.pi * u))


def dots(u: np.ndarray, v: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Round dots on a square lattice."""
    return _soft_step(np.cos(2.0 * math.pi * u) + np.cos(2.0 * math.pi * v) - 0.7)


def checks(u: np.ndarray, v: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Checkerboard."""
    return _soft_step(2.0 * np.sin(math.pi * u) * np.sin(math.pi * v))


def rising(u: np.ndarray, v: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Stripes from lower left to upper right."""
    return stripes(math.sqrt(0.5) * (u + v), v, rng)


def falling(u: np.ndarray, v: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Stripes from upper left to lower right."""
    return stripes(math.sqrt(0.5) * (u - v), v, rng)


def mesh(u: np.ndarray, v: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Thin lines in two directions."""
    return _soft_step(2.0 * np.maximum(np.cos(2.0 * math.pi * u), np.cos(2.0 * math.pi * v)) - 1.5)


def blades(u: np.ndarray, v: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Smoothed noise with a grain along ``v``, like grass."""
    return _filtered_noise(u, v, rng, stretch=4.0)


def grains(u: np.ndarray, v: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Smoothed noise without a direction, like sand."""
    return _filtered_noise(u, v, rng, stretch=1.0)


def bricks(u: np.ndarray, v: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Brick wall; every second row is shifted by half a brick."""
    row = np.floor(v)
    along = (u * 0.5 + 0.5 * (row % 2.0)) % 1.0
    joint = np.minimum(np.minimum(along, 1.0 - along) * 2.0, np.minimum(v - row, 1.0 - v + row))
    return _soft_step(8.0 * (joint - 0.14))


def _filtered_noise(
    u: np.ndarray, v: np.ndarray, rng: np.random.RandomState, stretch: float
) -> np.ndarray:
    """Interpolated noise on a lattice of the texture's coordinates, with increased contrast."""
    lattice = rng.uniform(size=(48, 48))
    # The lattice wraps around; with 2.2 cells per unit, grains are about one period wide.
    cells = np.stack([u * 2.2, v * 2.2 / stretch])
    return _soft_step(
        2.4 * (scipy.ndimage.map_coordinates(lattice, cells, order=1, mode='grid-wrap') - 0.5)
    )
