"""Web page of the interactive viewer and its server; the only module that needs gradio."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from typing import Any, Optional

from PIL import Image

from cotap_mm.visualization.errors import NotAvailable
from cotap_mm.visualization.figures.canvas import Pixels

from .render import MOST_CLUSTERS, MOST_SHOWN, Drawing, FeatureBrowser
from .request_filter import RequestFilter
from .sessions import MOST_SESSIONS, MOST_WAITING, PageSessions
from .sheet import Point

os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'  # read when gradio is imported
try:
    import gradio
    from gradio.data_classes import ImageData
    from starlette.middleware import Middleware
except ImportError as error:
    raise ImportError('the viewer needs gradio 6: pip install "gradio>=6"') from error

_STYLE = """
footer {display: none !important}
.gradio-container {max-width: none !important}
#sheet img {cursor: crosshair}
"""


def build_page(browser: FeatureBrowser, shown: Sequence[int], title: str) -> Any:
    """Build the page.

    Args:
        browser (FeatureBrowser): Draws the sheets.
        shown (sequence): Indices of the images that are shown first.
        title (str): Heading.

    Returns:
        gradio.Blocks: The page; :func:`serve` starts it.
    """
    names = browser.names
    prototypes = browser.num_prototypes(shown[0])
    modes = [mode for mode in browser.modes if mode != 'prototypes' or prototypes]
    start = Point(0, 0.5, 0.5)

    def draw(chosen: Any, mode: Any, number: Any, count: Any, point: Point) -> tuple[Any, str]:
        page.cotap_sessions.make_room()
        try:
            drawing = browser.draw(
                _indices(chosen), f'{mode}'[:50], Point(*point), _whole(number), _whole(count)
            )
        except NotAvailable as error:
            raise gradio.Error(f'{error}', print_exception=False) from error
        return drawing.sheet, drawing.note

    def click(
        chosen: Any, mode: Any, number: Any, count: Any, point: Point, event: gradio.EventData
    ) -> tuple[Any, str, Point]:
        try:
            x, y = map(_whole, event._data['index'])
            clicked = browser.locate(x, y, len(_indices(chosen)))
        except (TypeError, ValueError, KeyError) as error:  # NotAvailable is a ValueError
            raise gradio.Error('click a picture', print_exception=False) from error
        point = Point(*point) if clicked is None else clicked
        return (*draw(chosen, mode, number, count, point), point)

    first: Drawing = browser.draw(list(shown), 'similarity', start)
    # Gradio's default fonts are fetched from the web; system fonts are local.
    theme = gradio.themes.Default(
        font=['system-ui', 'sans-serif'], font_mono=['ui-monospace', 'monospace']
    )
    with gradio.Blocks(title=title, analytics_enabled=False, fill_width=True) as page:
        page.cotap_theme = theme
        gradio.Markdown(f'**{title}.** Click a patch in a photograph or map.')
        with gradio.Row():
            mode = gradio.Radio(modes, value='similarity', label='show', scale=3, elem_id='mode')
            number = gradio.Slider(
                0,
                max(1, prototypes - 1),
                value=0,
                step=1,
                label='prototype',
                visible=False,
                elem_id='prototype',
            )
            count = gradio.Slider(
                2,
                MOST_CLUSTERS,
                value=8,
                step=1,
                label='clusters',
                visible=False,
                elem_id='clusters',
            )
        note = gradio.Markdown(first.note, elem_id='note')
        sheet = gradio.Image(
            show_label=False, interactive=False, elem_id='sheet', buttons=['fullscreen', 'download']
        )
        # Gradio would write a file for each click and reveal its path to the page.
        sheet.postprocess = _in_page
        sheet.value = _in_page(first.sheet).model_dump()
        chosen = gradio.Dropdown(
            [(name, i) for i, name in enumerate(names)],
            value=list(shown),
            multiselect=True,
            max_choices=MOST_SHOWN,
            label='images',
            elem_id='images',
        )
        point = gradio.State(start)
        inputs = [chosen, mode, number, count, point]
        for part in (chosen, mode, number, count):
            # Gradio would print a traceback for a value that is not among the choices.
            part.preprocess = lambda value: value
        mode.change(
            lambda value: (
                gradio.update(visible=value == 'prototypes'),
                gradio.update(visible=value == 'clusters'),
            ),
            mode,
            [number, count],
        )
        for part in (mode, chosen, number, count):
            part.change(draw, inputs, [sheet, note], show_progress='hidden')
        sheet.select(click, inputs, [sheet, note, point], show_progress='hidden')
    page.cotap_sessions = PageSessions(page)
    page.queue(max_size=MOST_WAITING, default_concurrency_limit=1)
    return page


def _whole(value: Any) -> int:
    """Convert a number of a request to int.

    Raises:
        NotAvailable: If the value is not a number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise NotAvailable('expected a number')
    return int(value)  # finite; see calls.py


def _indices(chosen: Any) -> list[int]:
    """Return the chosen images in order.

    Raises:
        NotAvailable: If the value is not a list of numbers.
    """
    if not isinstance(chosen, list):
        raise NotAvailable('expected a list of images')
    return sorted(map(_whole, chosen))


def serve(
    page: Any,
    host: str,
    port: int,
    wait: bool = True,
    names: Sequence[str] = (),
    root_path: str = '',
) -> None:
    """Serve a page and nothing else; see :class:`RequestFilter`.

    Args:
        page (gradio.Blocks): From :func:`build_page`.
        host (str): Address to listen on; ``127.0.0.1`` for this machine only.
        port (int): TCP port.
        wait (bool): Block until interrupted; otherwise ``page.close()`` stops the server.
            Defaults to True.
        names (sequence): Host names under which a reverse proxy serves the page.
            Defaults to ().
        root_path (str): Path, or URL, under which a reverse proxy serves it. Defaults to ''.

    Raises:
        OSError: If the port is in use.
    """
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        show_error=False,
        max_file_size=0,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        run_history=False,
        enable_monitoring=False,
        theme=page.cotap_theme,
        css=_STYLE,
        root_path=root_path,
        state_session_capacity=MOST_SESSIONS,
        app_kwargs=dict(
            middleware=[
                Middleware(
                    RequestFilter,
                    host=host,
                    names=names,
                    root_path=root_path,
                    inputs={number: len(fn.inputs) for number, fn in page.fns.items()},
                    sessions=page.cotap_sessions,
                )
            ]
        ),
        prevent_thread_lock=not wait,
    )


def _in_page(pixels: Optional[Pixels]) -> Optional[ImageData]:
    """Embed a picture (H, W, 3) in the response, without a file."""
    if pixels is None:
        return None
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, 'PNG', compress_level=1)  # fast
    return ImageData(
        url='data:image/png;base64,' + base64.b64encode(stream.getvalue()).decode(),
        orig_name='sheet.png',
        mime_type='image/png',
    )
