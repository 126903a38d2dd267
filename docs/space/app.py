"""A Hugging Face Space that shows Any2Point adapters: copy this folder's files to the Space and name your adapters.

The variable `ANY2POINT_ADAPTERS` of the Space's settings, Hub ids with commas between, goes before the list below.
"""

import os

from any2point_hf.web_demo.server import serve

ADAPTERS = ["user/any2point-clip-text-scan"]

adapters = [name.strip() for name in os.environ.get("ANY2POINT_ADAPTERS", "").split(",") if name.strip()]
serve(
    adapters or ADAPTERS,
    host=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"),  # both are set by the Space
    port=int(os.environ.get("GRADIO_SERVER_PORT", "7860")),
)
