"""Serves the page: no file of this machine, no telemetry, nothing fetched from elsewhere.

Unusual here: gradio reads the folder for uploads from the environment when it is imported, so the folder is set first,
and gradio is imported only where it is used.
"""

import contextlib
import importlib.util
import os
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..modeling.errors import Any2PointError

if TYPE_CHECKING:
    import gradio

SESSIONS = 1000


def serve(
    models: Sequence[str],
    backbone: str | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    share: bool = False,
    max_megabytes: int = 20,
    mcp: bool = False,
) -> None:
    """Serves the web demo until it is interrupted; uploads are deleted after use and at the end.

    Args:
        models: folders or Hub ids of adapters.
        backbone: Hub id or folder, instead of the one that each adapter records.
        host: the address to listen on; "0.0.0.0" for all of the machine's.
        port: a free one.
        share: whether the page is also reached by anybody through a public address at gradio.live.
        max_megabytes: of an upload.
        mcp: whether assistants get tools (`tools.py`) by the Model Context Protocol, at /gradio_api/mcp/.

    Raises:
        Any2PointError: gradio or, with `mcp`, its package is missing, the address is taken, a model cannot be loaded.
    """
    if importlib.util.find_spec("gradio") is None:
        raise Any2PointError('the web demo needs gradio, which is not installed. Run: pip install "any2point-hf[web]"')
    if mcp and importlib.util.find_spec("mcp") is None:
        raise Any2PointError('--mcp needs the package mcp, which is missing. Run: pip install "any2point-hf[mcp]"')
    _check_address(host, port)
    from .inference import load_adapters
    from .memory import share_arenas

    share_arenas()
    with contextlib.suppress(ImportError):  # on ZeroGPU it takes down moves to a GPU, and has to be there before them
        importlib.import_module("spaces")

    adapters = load_adapters(models, backbone)
    with tempfile.TemporaryDirectory(prefix="any2point-demo-", ignore_cleanup_errors=True) as folder:
        os.environ.update(GRADIO_TEMP_DIR=folder, GRADIO_EXAMPLES_CACHE=folder, GRADIO_ANALYTICS_ENABLED="False")
        _reach_directly(host)
        from .app import build_page
        from .reader_process import Readers
        from .upload_folder import Sweeper

        readers, sweeper = Readers(), Sweeper(Path(folder))
        sweeper.start()
        try:
            page = build_page(adapters, max_megabytes, readers, Path(folder) if mcp else None)
            url, public = _launch(page, host, port, share, max_megabytes, Path(folder), mcp)
            print(f"serving {', '.join(adapters)} on {url} (stop with Ctrl-C)", flush=True)
            if public:
                print(f"everybody who knows this address can use it for a week: {public}", flush=True)
            page.block_thread()
        finally:
            sweeper.stop()
            readers.close()


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


def _launch(
    page: "gradio.Blocks", host: str, port: int, share: bool, max_megabytes: int, uploads: Path, mcp: bool
) -> tuple[str, str | None]:
    """Starts the server in a thread and returns its address and the public one."""
    import gradio
    from starlette.middleware import Middleware

    from .app import CSS
    from .request_guard import THIS_MACHINE, RequestGuard

    guard = Middleware(
        RequestGuard,
        is_local=host in THIS_MACHINE,
        is_shared=share,
        is_framed="SPACE_ID" in os.environ,
        max_bytes=max_megabytes * 1_000_000,
        uploads=uploads,
    )
    _, url, public = page.launch(
        server_name=host,
        server_port=port,
        share=share,
        max_file_size=f"{max_megabytes}mb",
        app_kwargs={"middleware": [guard], "openapi_url": None},
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
        mcp_server=mcp,
        pwa=False,
    )
    return url, public
