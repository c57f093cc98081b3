"""The web page of the interactive viewer. Needs gradio, which nothing else does."""
from __future__ import annotations

import os
from typing import Any, List, Sequence, Tuple

from .feature_browser import Drawing, FeatureBrowser, Point

os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'  # tells nobody; read when gradio is imported
try:
    import gradio
except ImportError as error:
    raise ImportError('the viewer needs gradio: pip install gradio') from error

_STYLE = """
footer {display: none !important}
.gradio-container {max-width: none !important}
#sheet img {cursor: crosshair}
"""


def build_page(browser: FeatureBrowser, shown: Sequence[int], title: str) -> Any:
    """Make the page.

    Args:
        browser (FeatureBrowser): Draws.
        shown (sequence): Indices of the images at the start.
        title (str): Heading.

    Returns:
        gradio.Blocks: Not started yet; see :func:`serve`.
    """
    names = browser.names
    prototypes = browser.num_prototypes()
    modes = [mode for mode in browser.modes if mode != 'prototypes' or prototypes]
    start = Point(0, 0.5, 0.5)

    def draw(chosen: List[int], mode: str, number: float, count: float,
             point: Point) -> Tuple[Any, str]:
        try:
            drawing = browser.draw(sorted(chosen), mode, Point(*point), int(number), int(count))
        except ValueError as error:
            raise gradio.Error(f'{error}', print_exception=False) from error
        return drawing.sheet, drawing.note

    def click(chosen: List[int], mode: str, number: float, count: float, point: Point,
              event: gradio.SelectData) -> Tuple[Any, str, Point]:
        found = browser.locate(*event.index, len(chosen))
        point = Point(*point) if found is None else found
        return (*draw(chosen, mode, number, count, point), point)

    first: Drawing = browser.draw(list(shown), 'similarity', start)
    # Gradio fetches its usual fonts from the web; the system's need nothing.
    theme = gradio.themes.Default(font=['system-ui', 'sans-serif'],
                                  font_mono=['ui-monospace', 'monospace'])
    with gradio.Blocks(title=title, analytics_enabled=False, fill_width=True) as page:
        page.cotap_theme = theme
        gradio.Markdown(f'**{title}.** Click any patch, in a photograph or in a map.')
        with gradio.Row():
            mode = gradio.Radio(modes, value='similarity', label='show', scale=3, elem_id='mode')
            number = gradio.Slider(0, max(1, prototypes - 1), value=0, step=1, label='prototype',
                                   visible=False, elem_id='prototype')
            count = gradio.Slider(2, 24, value=8, step=1, label='clusters', visible=False,
                                  elem_id='clusters')
        note = gradio.Markdown(first.note, elem_id='note')
        sheet = gradio.Image(first.sheet, show_label=False, interactive=False, elem_id='sheet',
                             format='png', buttons=['fullscreen', 'download'])
        chosen = gradio.Dropdown([(name, i) for i, name in enumerate(names)], value=list(shown),
                                 multiselect=True, label='images', elem_id='images')
        point = gradio.State(start)
        inputs = [chosen, mode, number, count, point]
        mode.change(lambda each: (gradio.update(visible=each == 'prototypes'),
                                  gradio.update(visible=each == 'clusters')),
                    mode, [number, count])
        for part in (mode, chosen, number, count):
            part.change(draw, inputs, [sheet, note], show_progress='hidden')
        sheet.select(click, inputs, [sheet, note, point], show_progress='hidden')
    return page


def serve(page: Any, host: str, port: int) -> None:
    """Serve a page until interrupted; ``OSError`` if the port is taken."""
    page.launch(server_name=host, server_port=port, share=False, quiet=True,
                theme=page.cotap_theme, css=_STYLE)
