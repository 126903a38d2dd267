"""The page: a cloud on the left; on the right its classes and where the model looks, or its parts, each in a colour.

Unusual here: the figure holds all blocks, and the slider chooses among them in the browser, so that the cloud stays as
it was turned and nothing of a visitor is kept on the server.
"""

import html
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from gradio_client.utils import is_http_url_like

from ..data.shapes import SHAPE_NAMES
from ..modeling.errors import Any2PointError
from ..pictures.parts import parts_picture
from ..point_clouds.files import POINT_CLOUD_EXTENSIONS, PointCloud
from .figures import attention_figure, parts_figure
from .inference import Adapter, example_cloud
from .memory import give_back
from .model_calls import ModelCall, model_call
from .reader_process import NUMBER, Readers
from .tools import add_tools
from .upload_folder import delete_soon

TITLE = "Any2Point: 3D point clouds through frozen transformers"
TOP_CLASSES = 5
FIRST_SHAPE = "chair"  # which the page shows until its visitor chooses
WAITING = 32  # clouds in the queue; later ones are told that it is full

INTRODUCTION = f"""# {TITLE}

A transformer trained on text, images or sound, left as it is, classifies 3D clouds with the help of a small adapter.
Choose a shape or upload your own ({" ".join(POINT_CLOUD_EXTENSIONS)}), drag to turn it, and move the slider to see
which points each block of the transformer attends to.
"""

CSS = """
.gradio-container { max-width: 1180px !important; margin: auto; }
#message p { margin: 0; padding: .6rem .8rem; border-radius: 8px; border: 1px solid var(--border-color-primary); }
#message [role=alert] { border-color: #d55e00; border-left-width: 6px; overflow-wrap: anywhere; }
#classes .confidence-set { margin-bottom: .2rem; }
#upload .download { display: none; } /* a link that the server answers by 403 */
#cloud { container-type: inline-size; }
#cloud .js-plotly-plot { height: min(56vh, 460px, 100cqw) !important; } /* never higher than wide */
:focus-visible { outline: 2px solid var(--color-accent); outline-offset: 2px; }
"""

SHOW_BLOCK = """(block) => {
    const plot = document.querySelector("#cloud .js-plotly-plot");
    if (plot) window.Plotly.restyle(plot, {visible: plot.data.map((_, index) => index === block)});
}"""


def build_page(
    adapters: Mapping[str, Adapter], max_megabytes: int, readers: Readers, tools_folder: Path | None = None
) -> gr.Blocks:
    """The page over these adapters; its events run in the order of their arrival, and none waits for another's upload.

    Args:
        adapters: by the name that visitors choose, at least one.
        max_megabytes: the largest upload that the server accepts; the page names it.
        readers: of the uploads.
        tools_folder: where the clouds of assistants lie while they are read; None for a page without tools.
    """
    call = model_call(adapters)

    def show(
        name: str, example: str | None, variation: int, category: str | None, upload: str | None, block: int
    ) -> tuple:
        example = example or FIRST_SHAPE  # none is chosen beside an upload, which may have been taken away
        results = _results(adapters[name], name, example, variation, category, upload, block, readers, call)
        is_final = len(adapters) == 1 and not adapters[name].categories
        if upload is not None and is_final:  # with a choice of adapters or categories it may be needed again
            delete_soon(upload)
        give_back()
        return *results, example if upload is None else None

    def show_example(name: str, example: str | None, variation: int, category: str | None, block: int) -> tuple:
        return None, *show(name, example, variation, category, None, block)

    names = list(adapters)
    last = max(adapters[names[0]].num_blocks - 1, 1)  # a slider needs two ends
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.Markdown(INTRODUCTION)
        variation = gr.State(0)
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                name = gr.Dropdown(names, value=names[0], label="Adapter", visible=len(names) > 1)
                example = gr.Radio(list(SHAPE_NAMES), value=FIRST_SHAPE, label="A built-in shape")
                another = gr.Button("Another of these", size="sm")
                category = gr.Dropdown([], label="It is a", visible=False, elem_id="category")
                upload = gr.File(
                    label=f"Or your own, up to {max_megabytes} MB",
                    file_types=list(POINT_CLOUD_EXTENSIONS),
                    height=170,
                    elem_id="upload",
                )
                move = _only_uploads(upload.async_move_resource_to_block_cache)
                upload.async_move_resource_to_block_cache = move  # type: ignore[method-assign]
            with gr.Column(scale=3, min_width=300):
                message = gr.HTML(elem_id="message")
                classes = gr.Label(label="Classes", num_top_classes=TOP_CLASSES, elem_id="classes")
                cloud = gr.Plot(label="Where the model looks", show_label=False, elem_id="cloud")
                block = gr.Slider(0, last, last, step=1, label="Attention in block", elem_id="block", buttons=[])
        results = [classes, cloud, block, message, category, example]
        options: dict[str, Any] = {
            "trigger_mode": "always_last",
            "api_visibility": "private",
            "show_progress_on": [cloud],
        }
        own = [name.input, category.input, upload.upload, upload.clear]
        queue = {"concurrency_limit": NUMBER, "concurrency_id": "uploads"}
        gr.on(own, show, [name, example, variation, category, upload, block], results, **queue, **options)
        queue = {"concurrency_limit": 1, "concurrency_id": "shapes"}
        chosen = {
            "inputs": [name, example, variation, category, block],
            "outputs": [upload, *results],
            **queue,
            **options,
        }
        page.load(show_example, **chosen)
        example.input(show_example, **chosen)
        another.click(lambda count: count + 1, variation, variation, api_visibility="private").then(
            show_example, **chosen
        )
        block.input(None, block, js=SHOW_BLOCK)
        if tools_folder is not None:
            add_tools(adapters, readers, call, tools_folder)
    return page.queue(max_size=WAITING, api_open=False)


def _only_uploads(move: Any) -> Any:
    """Keeps a forged request from having the server download an address instead of reading an upload."""

    async def move_upload(path: Any) -> Any:
        if path is not None and is_http_url_like(str(path)):
            raise gr.Error("only uploaded files are read.", print_exception=False)
        return await move(path)

    return move_upload


def _results(
    adapter: Adapter,
    name: str,
    example: str,
    variation: int,
    category: str | None,
    upload: str | None,
    block: int,
    readers: Readers,
    call: ModelCall,
) -> tuple:
    """What the page shows of one cloud: classes, figure, the slider, what was done or is wrong, and its category."""
    categories = adapter.categories
    if upload is None and example in categories:
        category = example
    elif category not in categories:
        category = categories[0] if categories else None
    choice = gr.update(choices=list(categories), value=category, visible=bool(categories))
    start = time.perf_counter()
    try:
        dropped = 0
        if upload is None:
            cloud = PointCloud(example_cloud(example, variation))
        else:
            processor = adapter.processor
            cloud, dropped = readers.read(upload, processor.point_feature_names, processor.seed, processor.drop_invalid)
        num_blocks = 0
        if adapter.is_segmenter:
            labelled = call("segment", name, cloud, category)
            shares = {part["name"]: part["share"] for part in labelled.summary()["parts"]}
            picture = parts_picture(labelled)
            seen = f"of which {len(labelled.parts):,} are labelled"
        else:
            prediction = call("classify", name, cloud)
            shares = prediction.probabilities
            num_blocks = 0 if prediction.attention is None else len(prediction.attention)
            seen = f"of which the model sees {adapter.processor.num_points:,}"
    except Any2PointError as error:
        return None, None, gr.update(), _message(str(error), is_error=True), choice
    block = max(min(int(block), num_blocks - 1), 0)
    slider = gr.update(maximum=max(num_blocks - 1, 1), value=block, visible=num_blocks > 1)
    figure = parts_figure(picture) if adapter.is_segmenter else attention_figure(prediction, block)
    source = f"built-in {example}" if upload is None else _file_name(upload)
    text = f"{name}: {source}, {len(cloud.points):,} points {seen}; {time.perf_counter() - start:.2f} s."
    if dropped:
        text += f" {dropped:,} invalid points were dropped."
    return shares, figure, slider, _message(text), choice


def _file_name(path: str) -> str:
    return Path(path).name


def _message(text: str, *, is_error: bool = False) -> str:
    """Text in the page, which screen readers speak; it is escaped, because file names come from visitors."""
    return f'<p role="{"alert" if is_error else "status"}">{html.escape(text)}</p>'
