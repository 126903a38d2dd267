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
import numpy as np
import plotly.graph_objects as go
from gradio_client.utils import is_http_url_like

from ..data.shapes import SHAPE_NAMES
from ..modeling.errors import Any2PointError
from ..pictures.interactive_pictures import cloud_figure, picture_figure
from ..pictures.parts import parts_picture
from ..pictures.picture import Picture
from ..pictures.picture_content import Panel
from ..point_clouds.files import POINT_CLOUD_EXTENSIONS, PointCloud
from .inference import Adapter, Prediction, classify, example_cloud, segment
from .memory import give_back
from .reader_process import NUMBER, Readers
from .upload_folder import delete_soon

TITLE = "Any2Point: 3D point clouds through frozen transformers"
TOP_CLASSES = 5
LONGEST_SIDE = 1.4  # of a cloud, in plotly's units; the camera stands 1.9 away, so it fits however it is turned
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
#cloud .js-plotly-plot { height: min(56vh, 460px, 96vw) !important; }
:focus-visible { outline: 2px solid var(--color-accent); outline-offset: 2px; }
"""

SHOW_BLOCK = """(block) => {
    const plot = document.querySelector("#cloud .js-plotly-plot");
    if (plot) window.Plotly.restyle(plot, {visible: plot.data.map((_, index) => index === block - 1)});
}"""


def build_page(adapters: Mapping[str, Adapter], max_megabytes: int, readers: Readers) -> gr.Blocks:
    """The page over these adapters; its events run in the order of their arrival, and none waits for another's upload.

    Args:
        adapters: by the name that visitors choose, at least one.
        max_megabytes: the largest upload that the server accepts; the page names it.
        readers: of the uploads.
    """

    def show(name: str, example: str, variation: int, category: str | None, upload: str | None, block: int) -> tuple:
        results = _results(adapters[name], name, example, variation, category, upload, block, readers)
        is_final = len(adapters) == 1 and not adapters[name].categories
        if upload is not None and is_final:  # with a choice of adapters or categories it may be needed again
            delete_soon(upload)
        give_back()
        return results

    def show_example(name: str, example: str, variation: int, category: str | None, block: int) -> tuple:
        results = _results(adapters[name], name, example, variation, category, None, block, readers)
        give_back()
        return None, *results

    names = list(adapters)
    last = max(adapters[names[0]].num_blocks, 2)  # a slider needs two ends
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.Markdown(INTRODUCTION)
        variation = gr.State(0)
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                name = gr.Dropdown(names, value=names[0], label="Adapter", visible=len(names) > 1)
                example = gr.Radio(list(SHAPE_NAMES), value="chair", label="A built-in shape")
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
                block = gr.Slider(1, last, last, step=1, label="Attention in block", elem_id="block", buttons=[])
        results = [classes, cloud, block, message, category]
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
            labelled = segment(adapter, cloud, category)
            shares = {part["name"]: part["share"] for part in labelled.summary()["parts"]}
            picture = parts_picture(labelled)
            seen = f"of which {len(labelled.parts):,} are labelled"
        else:
            prediction = classify(adapter, cloud)
            shares, num_blocks = (
                prediction.probabilities,
                0 if prediction.attention is None else len(prediction.attention),
            )
            seen = f"of which the model sees {adapter.processor.num_points:,}"
    except Any2PointError as error:
        return None, None, gr.update(), _message(str(error), is_error=True), choice
    block = min(max(int(block), 1), num_blocks) if num_blocks else 1
    slider = gr.update(maximum=max(num_blocks, 2), value=block, visible=num_blocks > 1)
    figure = _parts_figure(picture) if adapter.is_segmenter else _figure(prediction, block)
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


def _figure(prediction: Prediction, block: int) -> go.Figure:
    """The points coloured by attention, a trace for each block, one of them visible; by height without attention."""
    points, attention = prediction.points, prediction.attention
    if attention is None:
        figure = cloud_figure(points, points[:, 2], "", label="height")
    else:
        panels = tuple(Panel("", points, row, (float(row.min()), float(row.max()))) for row in attention)
        figure = picture_figure(Picture("", "share of attention", panels))
    for index, trace in enumerate(figure.data):
        trace.visible = index == block - 1 or attention is None
    bar = {"orientation": "h", "len": 0.7, "thickness": 10, "y": -0.1, "title_side": "top"}
    hover = "%{marker.color:.4f}<extra></extra>"  # instead of a text for each point, the larger part of the figure
    figure.update_traces(marker_colorbar=bar, text=None, hovertemplate=hover)
    return _laid_out(figure, points)


def _parts_figure(picture: Picture) -> go.Figure:
    """The points coloured by part, with a legend; pointing at one names its part."""
    (panel,) = picture.panels
    return _laid_out(picture_figure(picture), panel.points)


def _laid_out(figure: go.Figure, points: np.ndarray) -> go.Figure:
    """The figure without title and slider, of a size at which the cloud fits however it is turned."""
    extent = np.ptp(points, axis=0)
    sides = dict(zip("xyz", (LONGEST_SIDE * extent / extent.max()).tolist(), strict=True))
    figure.layout.sliders = []
    figure.update_layout(
        title=None,
        scene={"domain": {"y": [0.1, 1]}, "aspectmode": "manual", "aspectratio": sides},
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        modebar={"remove": ["zoom3d", "pan3d", "tableRotation", "orbitRotation", "resetCameraLastSave3d"]},
    )
    return figure
