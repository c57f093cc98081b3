"""Server of the viewer's page, its style sheet and its script."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .request_filter import RequestFilter
from .sessions import MOST_SESSIONS

_SCRIPT = Path(__file__).resolve().parents[2] / 'assets' / 'viewer.js'
_STYLE = """
footer {display: none !important}
.gradio-container {max-width: none !important}
#sheet img {cursor: crosshair; touch-action: manipulation}
#sheet:focus-visible, button:focus-visible, input:focus-visible
  {outline: 3px solid #0072b2 !important; outline-offset: 2px}
#pad {flex-wrap: wrap; gap: 6px}
#pad button {flex: 0 0 auto; min-width: 44px; min-height: 44px}
.min_value, .max_value, #controls span[data-testid] {color: var(--body-text-color) !important}
@media (max-width: 700px) {
  .gradio-container > .main {padding: 8px !important}
  #controls {flex-direction: column}
  #mode label {min-height: 44px}
  #sheet img {width: 100% !important; max-width: none}
  #sheet .icon-button-wrapper, #keys {display: none}
}
"""


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
    from starlette.middleware import Middleware  # a requirement of gradio

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
        head=f'<style>{_STYLE}</style>',  # Gradio would change the selectors of css
        js=_SCRIPT.read_text(encoding='utf-8'),
        root_path=root_path,
        state_session_capacity=MOST_SESSIONS,
        app_kwargs=dict(
            middleware=[
                Middleware(
                    RequestFilter,
                    host=host,
                    names=names,
                    root_path=root_path,
                    # Not those that run in the page only.
                    inputs={n: len(call.inputs) for n, call in page.fns.items() if call.fn},
                    sessions=page.cotap_sessions,
                )
            ]
        ),
        prevent_thread_lock=not wait,
    )
