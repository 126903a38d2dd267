"""`any2point demo`: the web page."""

import argparse
import signal

from .options import positive

HELP = "a web page that classifies clouds and shows where the model looks"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="MODEL",
        help="folder or Hub id of an adapter; may be repeated, and the page then has a choice",
    )
    parser.add_argument("--backbone", help="Hub id or folder, instead of the backbone that the adapters record")
    parser.add_argument(
        "--share",
        choices=("no", "yes"),
        default="no",
        help="yes: also reachable by anybody, through a public address of gradio.live (default no)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine)")
    parser.add_argument("--port", type=positive(int), default=7860, help="port to listen on (default 7860)")
    parser.add_argument("--max-megabytes", type=positive(int), default=20, help="of an uploaded file (default 20)")


def run(options: argparse.Namespace) -> None:
    """Serves until Ctrl-C or a termination signal, which end it alike."""
    from ..web_demo.server import serve

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    serve(
        options.model,
        options.backbone,
        host=options.host,
        port=options.port,
        share=options.share == "yes",
        max_megabytes=options.max_megabytes,
    )
