"""Web page of the interactive viewer; the only module that needs gradio."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from functools import partial, wraps
from typing import Any, Callable, NamedTuple, Optional

from PIL import Image

from cotap_mm.visualization.errors import NotAvailable
from cotap_mm.visualization.figures.canvas import Pixels
from cotap_mm.visualization.report.export import encode_figure

from .links import View, read_link, write_link
from .modes import NEEDS_PROTOTYPES
from .render import MOST_CLUSTERS, MOST_SHOWN, Drawing, FeatureBrowser
from .server import serve
from .sessions import MOST_WAITING, PageSessions
from .sheet import Point

os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'  # read when gradio is imported
try:
    import gradio
    from gradio.data_classes import ImageData
except ImportError as error:
    raise ImportError('the viewer needs gradio 6: pip install "gradio>=6"') from error

__all__ = ['build_page', 'serve']

_KEYS = (
    'Keys: arrows move the patch (with Shift by four), [ and ] change its image, 1 to {} choose '
    'what is shown.'
)


class Shown(NamedTuple):
    """What the server keeps of a session: the chosen patch and the layout of the sheet."""

    point: Point
    upright: bool = False


def build_page(
    browser: FeatureBrowser,
    shown: Sequence[int],
    title: str,
    command: Optional[Callable[[View, Sequence[str]], str]] = None,
) -> Any:
    """Build the page.

    Args:
        browser (FeatureBrowser): Draws the sheets.
        shown (sequence): Indices of the images that are shown first.
        title (str): Heading.
        command (callable, optional): Returns the command line of a figure; see
            :class:`FigureCommand`. Defaults to None (not shown).

    Returns:
        gradio.Blocks: The page; :func:`serve` starts it.
    """
    names, every = browser.names, tuple(browser.encoders)
    prototypes = browser.num_prototypes(shown[0])
    modes = [mode for mode in browser.modes if mode not in NEEDS_PROTOTYPES or prototypes]
    start = Shown(Point(0, 0.5, 0.5))
    first_view = View(sorted(shown), 'similarity', 0, 8, start.point)

    def view_of(
        chosen: Any, mode: Any, number: Any, count: Any, networks: Any, seen: Shown
    ) -> View:
        return View(
            _indices(chosen),
            f'{mode}'[:50],
            _whole(number),
            _whole(count),
            Point(*seen[0]),
            _some_of(networks, every),
        )

    def render(view: View, upright: bool) -> tuple[Any, str]:
        page.cotap_sessions.make_room()
        drawing = browser.draw(
            view.chosen,
            view.mode,
            view.point,
            view.number,
            view.count,
            bool(upright),
            view.networks,
        )
        return drawing.sheet, drawing.note

    def texts(view: View) -> tuple[str, str]:
        """Return the link to a state and the command of its figure."""
        return write_link(view, names, browser.grid), command(view, names) if command else ''

    @_refusing
    def draw(
        chosen: Any, mode: Any, number: Any, count: Any, networks: Any, seen: Shown
    ) -> tuple[Any, str]:
        return render(view_of(chosen, mode, number, count, networks, seen), seen[1])

    @_refusing
    def describe(
        chosen: Any, mode: Any, number: Any, count: Any, networks: Any, seen: Shown
    ) -> tuple[str, str]:
        return texts(view_of(chosen, mode, number, count, networks, seen))

    def click(
        chosen: Any,
        mode: Any,
        number: Any,
        count: Any,
        networks: Any,
        seen: Shown,
        event: gradio.EventData,
    ) -> tuple[Any, ...]:
        try:
            x, y = map(_whole, event._data['index'])
            rows = _some_of(networks, every)
            clicked = browser.locate(x, y, len(_indices(chosen)), bool(seen[1]), rows)
        except (TypeError, ValueError, KeyError) as error:  # NotAvailable is a ValueError
            raise gradio.Error('click a picture', print_exception=False) from error
        seen = Shown(*seen) if clicked is None else Shown(clicked, bool(seen[1]))
        drawn = draw(chosen, mode, number, count, networks, seen)
        return (*drawn, seen, *describe(chosen, mode, number, count, networks, seen))

    @_refusing
    def go(wanted: Any) -> tuple[Any, ...]:
        """Draw the state of a link; ``narrow=1`` in it asks for the layout of narrow screens."""
        text = wanted if isinstance(wanted, str) else ''
        view = read_link(text, names, browser.grid, first_view)
        upright = 'narrow=1' in text.split('&')
        drawn = render(view, upright)
        point = view.point._replace(slot=min(view.point.slot, len(view.chosen) - 1))
        return (
            *drawn,
            Shown(point, upright),
            *texts(view),
            view.chosen,
            view.mode,
            gradio.update(value=view.number, visible=view.mode == 'prototypes'),
            gradio.update(value=view.count, visible=view.mode == 'clusters'),
            list(view.networks or every),
        )

    @_refusing
    def save(
        kind: str, chosen: Any, mode: Any, number: Any, count: Any, networks: Any, seen: Shown
    ) -> ImageData:
        view = view_of(chosen, mode, number, count, networks, seen)
        page.cotap_sessions.make_room()
        figure = browser.figure(
            view.chosen, view.mode, view.point, view.number, view.count, view.networks
        )
        data = encode_figure(figure, kind, command(view, names) if command else '')
        return _embed(data, f'{view.mode}.{kind}', kind)

    first: Drawing = browser.draw(list(shown), 'similarity', start.point)
    # Gradio's default fonts are fetched from the web; system fonts are local.
    theme = gradio.themes.Default(
        font=['system-ui', 'sans-serif'], font_mono=['ui-monospace', 'monospace']
    )
    with gradio.Blocks(title=title, analytics_enabled=False, fill_width=True) as page:
        page.cotap_theme = theme
        gradio.Markdown(f'**{title}.** Click a patch in a photograph or map.')
        with gradio.Row(elem_id='controls'):
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
            networks = gradio.CheckboxGroup(
                list(every),
                value=list(every),
                label='networks',
                visible=len(every) > 1,
                elem_id='networks',
            )
        sheet = gradio.Image(
            show_label=False, interactive=False, elem_id='sheet', buttons=['fullscreen']
        )
        # Gradio would write a file for each click and reveal its path to the page.
        sheet.postprocess = _in_page
        sheet.value = _in_page(first.sheet).model_dump()
        with gradio.Row(elem_id='pad'):
            pad = {
                script: gradio.Button(text, size='sm', elem_id=name) for name, text, script in _PAD
            }
            files = {
                kind: gradio.Button(f'Save {kind.upper()}', size='sm', elem_id=f'save-{kind}')
                for kind in ('png', 'svg')
            }
        note = gradio.Markdown(first.note, elem_id='note')
        gradio.Markdown(_KEYS.format(len(modes)), elem_id='keys')
        chosen = gradio.Dropdown(
            [(name, i) for i, name in enumerate(names)],
            value=list(shown),
            multiselect=True,
            max_choices=MOST_SHOWN,
            label='images',
            elem_id='images',
        )
        line = gradio.Textbox(
            label='command that draws this figure, in the folder of these files',
            interactive=False,
            lines=2,
            buttons=['copy'],
            visible=command is not None,
            elem_id='command',
        )
        seen = gradio.State(start)
        wanted, link = (gradio.Textbox(visible='hidden') for _ in range(2))
        going = gradio.Button(visible='hidden', elem_id='go')
        saved = gradio.Image(visible='hidden', interactive=False)
        saved.postprocess = lambda value: value
        inputs = [chosen, mode, number, count, networks, seen]
        for part in (chosen, mode, number, count, networks, wanted):
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
        quiet = dict(show_progress='hidden', trigger_mode='always_last')
        for part in (mode, chosen, number, count, networks):
            event = part.input(draw, inputs, [sheet, note], **quiet)
            event.success(describe, inputs, [link, line], show_progress='hidden')
        state = [sheet, note, seen, link, line]
        sheet.select(click, inputs, state, show_progress='hidden')
        everything = [*state, chosen, mode, number, count, networks]
        going.click(go, wanted, everything, js='() => [cotapViewer.wanted()]', **quiet)
        for script, button in pad.items():
            button.click(None, None, None, js=f'() => cotapViewer.{script}')
        link.change(None, link, None, js='(text) => cotapViewer.show(text)')
        for kind, button in files.items():
            event = button.click(
                partial(save, kind), inputs, saved, show_progress='hidden', api_name=f'save_{kind}'
            )
            event.success(None, saved, None, js='(file) => cotapViewer.save(file)')
        page.load(go, wanted, everything, js='() => cotapViewer.start()', show_progress='hidden')
    page.cotap_sessions = PageSessions(page)
    page.queue(max_size=MOST_WAITING, default_concurrency_limit=1)
    return page


#: Buttons for touch and for the keyboard: ID, text, and what they call in the page.
_PAD = (
    ('left', '←', 'move(0, -1)'),
    ('up', '↑', 'move(-1, 0)'),
    ('down', '↓', 'move(1, 0)'),
    ('right', '→', 'move(0, 1)'),
    ('previous', '[ previous image', 'nextImage(-1)'),
    ('next', 'next image ]', 'nextImage(1)'),
    ('copy', 'Copy link', 'copyLink()'),
)


def _refusing(function: Callable[..., Any]) -> Callable[..., Any]:
    """Show the message of NotAvailable on the page."""

    @wraps(function)
    def call(*args: Any) -> Any:
        try:
            return function(*args)
        except NotAvailable as error:
            raise gradio.Error(f'{error}', print_exception=False) from error

    return call


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


def _some_of(names: Any, every: Sequence[str]) -> tuple[str, ...]:
    """Return the checked networks in the order of their rows; () for all.

    Raises:
        NotAvailable: If none is checked, or a name is unknown.
    """
    if not isinstance(names, list) or not names:
        raise NotAvailable('check at least one network')
    unknown = [name for name in names if name not in every]
    if unknown:
        raise NotAvailable(f'{unknown[0]!r:.100} is not among the networks: {", ".join(every)}')
    checked = tuple(name for name in every if name in names)
    return () if checked == tuple(every) else checked


def _in_page(pixels: Optional[Pixels]) -> Optional[ImageData]:
    """Embed a picture (H, W, 3) in the response, without a file."""
    if pixels is None:
        return None
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, 'PNG', compress_level=1)  # fast
    return _embed(stream.getvalue(), 'sheet.png', 'png')


def _embed(data: bytes, name: str, kind: str) -> ImageData:
    """Embed the content of a PNG or SVG file in the response."""
    mime = dict(png='image/png', svg='image/svg+xml')[kind]
    return ImageData(
        url=f'data:{mime};base64,{base64.b64encode(data).decode()}',
        orig_name=name,
        mime_type=mime,
    )
