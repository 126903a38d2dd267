"""`any2point demo`: the web page."""

import argparse
import signal

import shtab

from .options import add_backbone, complete_with, positive

HELP = "a web page that classifies clouds and shows where the model looks"
DESCRIPTION = """
Serves a page on which to choose or upload a cloud, turn it, and see its classes with the attention painted on its
points. Nobody but this machine can reach it unless --host or --share says so.
"""
EXAMPLES = """
  any2point demo --model my-adapter
  any2point demo --model text-adapter --model image-adapter --port 8080
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    complete_with(
        parser.add_argument(
            "--model",
            action="append",
            required=True,
            metavar="ADAPTER",
            help="folder or Hub id of an adapter; may be repeated, and the page then has a choice",
        ),
        shtab.DIRECTORY,
    )
    add_backbone(parser)
    parser.add_argument(
        "--share",
        choices=("no", "yes"),
        default="no",
        help="yes: also reachable by anybody, through a public address of gradio.live (default no)",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen on (default 127.0.0.1: this machine)"
    )
    parser.add_argument(
        "--port", type=positive(int), default=7860, metavar="N", help="port to listen on (default 7860)"
    )
    parser.add_argument(
        "--mcp",
        action="store_true",
        help="also offer assistants the tools classify, embed and segment, by the Model Context Protocol",
    )
    parser.add_argument(
        "--max-megabytes", type=positive(int), default=20, metavar="N", help="of an uploaded file (default 20)"
    )


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
        mcp=options.mcp,
    )
