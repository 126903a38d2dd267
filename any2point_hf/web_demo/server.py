"""Serves the page: no file of this machine, no telemetry, nothing fetched from elsewhere.

Unusual here: gradio reads the folder for uploads from the environment when it is imported, so the folder is set first,
and gradio is imported only where it is used.
"""

import importlib.util
import os
import re
import socket
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..modeling.errors import Any2PointError

if TYPE_CHECKING:
    import gradio

# Ways of gradio to hand out files and addresses, none of which the page needs: uploads are read, never sent back.
CLOSED = re.compile(r"/(file|proxy)[=/]|/(process_recording|deep_link|component_server)\b")
SESSIONS = 1000


def serve(
    models: Sequence[str],
    backbone: str | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    share: bool = False,
    max_megabytes: int = 20,
) -> None:
    """Serves the web demo until it is interrupted; uploads are deleted after a quarter of an hour and at the end.

    Args:
        models: folders or Hub ids of adapters.
        backbone: Hub id or folder, instead of the one that each adapter records.
        host: the address to listen on; "0.0.0.0" for all of the machine's.
        port: a free one.
        share: whether the page is also reached by anybody through a public address at gradio.live.
        max_megabytes: of an upload.

    Raises:
        Any2PointError: gradio is missing, the address is taken, a model cannot be loaded.
    """
    if importlib.util.find_spec("gradio") is None:
        raise Any2PointError("the web demo needs gradio, which is not installed. Run: pip install any2point-hf[web]")
    _check_address(host, port)
    from .inference import load_adapters

    adapters = load_adapters(models, backbone)
    with tempfile.TemporaryDirectory(prefix="any2point-demo-", ignore_cleanup_errors=True) as folder:
        os.environ.update(GRADIO_TEMP_DIR=folder, GRADIO_EXAMPLES_CACHE=folder, GRADIO_ANALYTICS_ENABLED="False")
        _reach_directly(host)
        from .app import build_page

        page = build_page(adapters, max_megabytes)
        url, public = _launch(page, host, port, share, max_megabytes)
        print(f"serving {', '.join(adapters)} on {url} (stop with Ctrl-C)", flush=True)
        if public:
            print(f"everybody who knows this address can use it for a week: {public}", flush=True)
        page.block_thread()


def _check_address(host: str, port: int) -> None:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port), family=family).close()
    except (OSError, OverflowError) as error:
        raise Any2PointError(
            f"--host and --port must be an address of this machine that is free, and {host} {port} cannot be listened "
            f"on. Stop what uses it, or choose another port. The system said: {error}"
        ) from error


def _reach_directly(host: str) -> None:
    """Excludes this server from the environment's proxies: gradio asks it whether it is up, and no proxy may answer."""
    local = ",".join(filter(None, (os.environ.get("no_proxy", os.environ.get("NO_PROXY")), host, "127.0.0.1")))
    os.environ.update(no_proxy=local, NO_PROXY=local)


def _launch(page: "gradio.Blocks", host: str, port: int, share: bool, max_megabytes: int) -> tuple[str, str | None]:
    """Starts the server in a thread and returns its address and the public one."""
    import gradio
    from starlette.middleware import Middleware

    from .app import CSS

    _, url, public = page.launch(
        server_name=host,
        server_port=port,
        share=share,
        max_file_size=f"{max_megabytes}mb",
        app_kwargs={"middleware": [Middleware(ClosedRoutes)], "openapi_url": None},
        theme=gradio.themes.Soft(
            primary_hue="teal", font=gradio.themes.Font("system-ui"), font_mono=gradio.themes.Font("monospace")
        ),
        css=CSS,
        prevent_thread_lock=True,
        quiet=True,
        show_error=False,  # the page shows the errors that visitors cause; others do not concern them
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        state_session_capacity=SESSIONS,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
    )
    return url, public


class ClosedRoutes:
    """Answers 403 on `CLOSED`, whatever gradio would have done there."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Handles one request (ASGI)."""
        from starlette.responses import PlainTextResponse

        if scope["type"] == "http" and CLOSED.search(scope["path"]):
            await PlainTextResponse("This server hands out no files.", status_code=403)(scope, receive, send)
            return
        await self.app(scope, receive, send)
