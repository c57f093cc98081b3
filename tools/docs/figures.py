"""Draw the figures of docs/method.md: needs Matplotlib and NumPy only.

python tools/docs/figures.py                   # writes docs/images/method_*.png
python tools/docs/figures.py --out DIR
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Callable, Optional

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

ROOT = Path(__file__).resolve().parents[2]
INK, FAINT, RULE = '#1f2933', '#52606d', '#cbd2d9'
# Okabe and Ito's palette: distinguishable with any common form of color blindness.
BLUE, ORANGE, GREEN, YELLOW = '#0072b2', '#d55e00', '#009e73', '#e69f00'
#: Defaults of PatchRankingLoss; a test compares them.
TAU, THETA, ALPHA = 0.5, -0.2, 0.1
#: Seven pairs, sorted by the student's similarity, highest first.
STUDENT = np.array([0.86, 0.74, 0.66, 0.52, 0.40, 0.22, 0.05])
TEACHER = np.array([0.82, 0.35, 0.90, 0.48, 0.70, 0.12, -0.10])
NEIGHBOR = np.array([1, 1, 1, 0, 1, 0, 0], dtype=bool)
LOOKED_AT = 4  # the pair that the first panel explains
STYLE = {
    'font.size': 10,
    'axes.titlesize': 10.5,
    'axes.titleweight': 'bold',
    'axes.titlelocation': 'left',
    'axes.edgecolor': RULE,
    'axes.labelcolor': FAINT,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'text.color': INK,
    'xtick.color': FAINT,
    'ytick.color': FAINT,
}


def penalty(gap: np.ndarray, tau: float = TAU) -> np.ndarray:
    """Penalty of a comparison of two pairs, by how far the student separates them.

    Args:
        gap (np.ndarray): Student's similarity of the pair that should be higher, minus that of
            the other.
        tau (float): Margin, > 0. Defaults to that of the paper.

    Returns:
        np.ndarray: 0 from ``tau`` on, a parabola between 0 and ``tau``, linear below 0.
    """
    gap = np.asarray(gap, dtype=np.float64) / tau
    return np.where(gap >= 1, 0.0, np.where(gap >= 0, (1 - gap) ** 2, 1 - 2 * gap))


def ranking_terms(
    pred: np.ndarray, target: np.ndarray, is_neighbor: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Compute the CoTAP loss and its parts by its formula.

    Args:
        pred (np.ndarray): Student's similarities, shape (P,).
        target (np.ndarray): Teacher's similarities, shape (P,).
        is_neighbor (np.ndarray): Whether a pair is of an image and its neighbor, shape (P,).

    Returns:
        tuple: Discordance L_pn (P,), concordant rank L_pp (P,), weights w (P,), and the loss.
    """
    above = np.maximum(target[:, None] - target, 0) * penalty(pred[:, None] - pred)
    wrong = above.sum(axis=1)
    right = ((target >= target[:, None]) & (pred >= pred[:, None])).sum(axis=1).astype(float)
    ratio = wrong / (right + 1e-5)
    weight = np.maximum(target - THETA, 0) * np.where(is_neighbor, 1, ALPHA)
    loss = float((weight * ratio / (1 + ratio)).sum() / (weight.sum() + 1e-5))
    return wrong, right, weight, loss


def draw_ranking(figure: Figure) -> None:
    """Draw what the ranking loss compares, its penalty, and what a long list changes."""
    axes = figure.subplots(1, 3, width_ratios=(1.5, 1, 1))
    _draw_list(axes[0])
    _draw_penalty(axes[1])
    _draw_focus(axes[2])


def _draw_list(axes: Axes) -> None:
    """Bars of the teacher's similarities in the student's order, and one pair's comparisons."""
    own = TEACHER[LOOKED_AT]
    colors = []
    for index, target in enumerate(TEACHER):
        if index == LOOKED_AT:
            colors.append(INK)
        elif index > LOOKED_AT:
            colors.append(RULE)
        else:
            colors.append(ORANGE if target < own else GREEN)
    places = np.arange(len(TEACHER))
    axes.bar(places, TEACHER, color=colors, width=0.62)
    axes.axhline(own, color=INK, lw=0.8, ls=':')
    axes.axhline(0, color=RULE, lw=0.8)
    for index in range(LOOKED_AT):
        if TEACHER[index] < own:
            axes.annotate(
                '',
                (index, TEACHER[index]),
                (index, own),
                arrowprops=dict(arrowstyle='<->', color=ORANGE, lw=1.6),
            )
    axes.text(LOOKED_AT, own + 0.04, 'pair i', ha='center', weight='bold')
    axes.set_xticks(places, [f'{value:.2f}' for value in STUDENT])
    axes.set_xlabel("student's similarity p: the list is sorted by it")
    axes.set_ylabel("teacher's similarity t")
    axes.set_ylim(-0.2, 1.32)
    axes.set_title('1. What is compared')
    for height, color, text in (
        (1.24, GREEN, 'rightly above i, and i itself: $L_{pp}(i)$ counts them'),
        (1.13, ORANGE, 'wrongly above i: $L_{pn}(i)$ adds their gaps in t'),
    ):
        axes.plot([-0.35], [height], 's', color=color, ms=7)
        axes.text(-0.1, height, text, va='center', fontsize=9)


def _draw_penalty(axes: Axes) -> None:
    gap = np.linspace(-0.55, 0.8, 400)
    axes.plot(gap, gap < 0, color=FAINT, lw=1.2, ls='--', label='Average Precision')
    axes.plot(gap, penalty(gap), color=BLUE, lw=2.2, label='CoTAP')
    axes.axvline(0, color=RULE, lw=0.8, zorder=0)
    axes.axvline(TAU, color=RULE, lw=0.8, zorder=0)
    arrow = dict(arrowstyle='->', color=FAINT)
    axes.annotate(r'margin $\tau$', (TAU, 0), (TAU, 0.9), ha='center', arrowprops=arrow)
    axes.set_xlabel('$p_i - p_j$, where $t_i > t_j$')
    axes.set_ylabel(r'penalty $\ell$')
    axes.legend(frameon=False, loc='upper right', fontsize=9)
    axes.set_title('2. A smooth rank')


def _draw_focus(axes: Axes) -> None:
    wrong = np.linspace(0, 12, 300)
    for right, color in ((1, ORANGE), (5, BLUE), (25, GREEN)):
        ratio = wrong / right
        axes.plot(wrong, ratio / (1 + ratio), color=color, lw=2.2, label=f'$L_{{pp}}$ = {right}')
    axes.set_xlabel('$L_{pn}(i)$')
    axes.set_ylabel('loss of pair i')
    axes.set_ylim(0, 1)
    axes.legend(frameon=False, fontsize=9)
    axes.set_title('3. Bounded and focused')


class _Chart:
    """Boxes and arrows on a plane of ``width`` x ``height`` units."""

    def __init__(self, figure: Figure, width: float, height: float) -> None:
        self.axes = figure.add_subplot()
        self.axes.set_xlim(0, width)
        self.axes.set_ylim(0, height)
        self.axes.axis('off')

    def box(
        self,
        x: float,
        y: float,
        text: str,
        color: str = FAINT,
        size: tuple[float, float] = (2.0, 0.8),
        filled: bool = False,
    ) -> tuple[float, float, float, float]:
        """Draw a box around its center; return its left, right, bottom and top."""
        width, height = size
        self.axes.add_patch(
            FancyBboxPatch(
                (x - width / 2, y - height / 2),
                width,
                height,
                boxstyle='round,pad=0,rounding_size=0.12',
                facecolor=matplotlib.colors.to_rgba(color, 0.16 if filled else 0.05),
                edgecolor=color,
                lw=1.4,
            )
        )
        self.axes.text(x, y, text, ha='center', va='center', fontsize=9, linespacing=1.35)
        return x - width / 2, x + width / 2, y - height / 2, y + height / 2

    def arrow(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        text: str = '',
        color: str = FAINT,
        style: str = '-',
        curve: float = 0.0,
    ) -> None:
        """Draw an arrow, with a text above its middle."""
        self.axes.add_patch(
            FancyArrowPatch(
                start,
                end,
                arrowstyle='-|>',
                mutation_scale=11,
                color=color,
                lw=1.3,
                linestyle=style,
                connectionstyle=f'arc3,rad={curve}',
                shrinkA=1,
                shrinkB=1,
            )
        )
        if text:
            x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
            self.axes.text(x, y + 0.12, text, ha='center', va='bottom', fontsize=8, color=FAINT)

    def note(self, x: float, y: float, text: str, color: str = FAINT) -> None:
        """Write a small text, centered."""
        self.axes.text(x, y, text, ha='center', va='center', fontsize=8.5, color=color)


def draw_filter(figure: Figure) -> None:
    """Draw the data flow of the object-aware filter for patches."""
    chart = _Chart(figure, 15, 5.4)
    box, arrow = chart.box, chart.arrow
    box(1.2, 4.2, 'patches x\nH x W, width d', BLUE, (2.0, 1.0), True)
    box(1.2, 1.2, 'M prototypes\n3 x 3 cells, width d', GREEN, (2.0, 1.0), True)
    box(4.2, 4.2, 'query of\neach patch', BLUE)
    box(4.2, 1.7, 'keys of\nthe 9 cells', GREEN, (2.0, 0.7))
    box(4.2, 0.7, 'value: mean\nof the 9 cells', GREEN, (2.0, 0.7))
    box(7.2, 3.0, '3 x 3 correlation,\nsoftmax over M', ORANGE, (2.3, 1.0))
    box(9.8, 2.0, 'weighted sum\nof values', ORANGE, (1.9, 0.9))
    box(11.9, 3.1, "x' = MLP(x + y)\nwith residual", BLUE, (1.9, 0.9))
    box(13.9, 4.2, "LayerNorm\n[x ; x'], width 2d", INK, (1.9, 1.0), True)
    arrow((2.2, 4.2), (3.2, 4.2))
    arrow((2.2, 1.4), (3.2, 1.7))
    arrow((2.2, 1.0), (3.2, 0.7))
    arrow((5.2, 4.2), (6.05, 3.35))
    arrow((5.2, 1.7), (6.05, 2.7))
    arrow((8.35, 2.8), (8.85, 2.25))
    arrow((5.2, 0.7), (9.2, 1.55))
    arrow((10.25, 2.45), (10.95, 3.05))
    chart.note(10.4, 2.95, 'y')
    arrow((12.4, 3.55), (12.95, 4.0))
    chart.axes.plot([1.2, 1.2, 12.0], [4.7, 5.1, 5.1], color=BLUE, lw=1.3)
    arrow((12.0, 5.1), (12.95, 4.6), color=BLUE)
    arrow((11.9, 5.1), (11.9, 3.58), color=BLUE)
    chart.note(7.4, 5.27, 'x unchanged', BLUE)
    chart.note(
        7.5,
        0.05,
        'norms, qkv, projection and MLP are those of the last block of the ViT, shared by '
        'reference; gradients stop at the prototypes',
    )


def draw_step(figure: Figure) -> None:
    """Draw the data flow of a training step."""
    chart = _Chart(figure, 15, 6.2)
    box, arrow = chart.box, chart.arrow
    box(1.3, 4.6, 'image', BLUE, (2.0, 0.8), True)
    box(1.3, 1.6, 'its neighbor\n(1 of 7)', GREEN, (2.0, 0.8), True)
    box(4.2, 4.6, '2 global and 4 local\ncrops of each, color', BLUE, (2.5, 0.9))
    box(4.2, 1.6, 'the same global crops,\nno color', GREEN, (2.5, 0.9))
    box(7.2, 4.6, 'student\nViT, filter, head', BLUE, (2.1, 0.9), True)
    box(7.2, 1.6, 'teacher\nViT, filter, head', GREEN, (2.1, 0.9), True)
    box(10.0, 4.6, 'scores: cosines to\nK cluster centers', BLUE, (2.3, 0.9))
    box(10.0, 1.6, 'scores, Sinkhorn,\nforeground mask', GREEN, (2.3, 0.9))
    arrow((2.3, 4.7), (2.95, 4.7))
    arrow((2.1, 2.0), (3.2, 4.12))
    arrow((2.3, 1.5), (2.95, 1.5))
    arrow((2.1, 4.2), (3.2, 2.08))
    for y in (4.6, 1.6):
        arrow((5.45, y), (6.15, y))
        arrow((8.25, y), (8.85, y))
    arrow((7.2, 4.12), (7.2, 2.08), color=FAINT, style='--')
    chart.note(7.75, 3.1, 'moving\naverage')
    for y, text, color in (
        (5.6, 'patch clusters: same place', INK),
        (4.5, 'CLS clusters: same image', INK),
        (3.4, 'patch ranking: CoTAP', ORANGE),
        (2.3, 'CLS clusters: neighbor', INK),
        (1.2, 'prototype entropy', INK),
    ):
        left, _, bottom, top = box(13.6, y, text, color, (2.6, 0.75), color == ORANGE)
        if y > 1.5:
            arrow((11.15, 4.6), (left, y + 0.1), color=BLUE)
            arrow((11.15, 1.6), (left, y - 0.1), color=GREEN)
    chart.note(13.6, 0.55, 'prototypes against recent templates')
    chart.note(13.6, 6.1, 'five losses, summed')


#: Name of a figure -> its function, width and height in inches.
FIGURES: dict[str, tuple[Callable[[Figure], None], float, float]] = {
    'method_step': (draw_step, 10.5, 4.3),
    'method_ranking': (draw_ranking, 12.0, 3.7),
    'method_filter': (draw_filter, 10.5, 3.8),
}


def draw_all(folder: Path) -> list[Path]:
    """Draw all figures.

    Args:
        folder (Path): Where to write; it is created.

    Returns:
        list[Path]: The PNG files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with matplotlib.rc_context(STYLE):
        for name, (draw, width, height) in FIGURES.items():
            figure = Figure(
                figsize=(width, height), dpi=110, facecolor='white', layout='constrained'
            )
            FigureCanvasAgg(figure)
            draw(figure)
            paths.append(folder / f'{name}.png')
            # Without the version of Matplotlib, the same drawing is the same file.
            figure.savefig(paths[-1], metadata=dict(Software=None))
    return paths


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--out', type=Path, default=ROOT / 'docs' / 'images')
    for path in draw_all(parser.parse_args(argv).out):
        print(path)


if __name__ == '__main__':
    main()
