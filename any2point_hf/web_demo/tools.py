"""Tools for assistants, which Gradio's MCP server offers with `any2point demo --mcp`: classify, embed and segment.

Unusual here: a tool takes what is in a file, never a path or an address, so it can read nothing of the server. The
content is read as an upload is: by a process with limits, from a folder of its own that is deleted at once.
"""

import base64
import functools
import inspect
import json
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from ..modeling.errors import Any2PointError, PointCloudError, did_you_mean, listed
from ..point_clouds.files import POINT_CLOUD_EXTENSIONS, PointCloud
from .inference import SHOWN_POINTS, Adapter
from .memory import give_back
from .model_calls import ModelCall
from .reader_process import NUMBER, Readers


def add_tools(adapters: Mapping[str, Adapter], readers: Readers, call: ModelCall, folder: Path) -> None:
    """Adds the three tools to the page that is being built.

    Args:
        adapters: by the name that a tool takes.
        readers: of what is sent.
        call: what calls the adapters.
        folder: for what is sent, while it is read.
    """

    def read(name: str, content: str, file_name: str) -> PointCloud:
        processor = adapters[name].processor
        with tempfile.TemporaryDirectory(dir=folder) as own:
            file = write_content(content, file_name, Path(own))
            return readers.read(file, processor.point_feature_names, processor.seed, processor.drop_invalid)[0]

    def classify(content: str, file_name: str = "cloud.xyz", adapter: str = "") -> str:
        """Says which class of object a 3D point cloud or mesh is, with the probability of every class.

        Args:
            content: the file's text, such as a line "x y z" for each point; of a binary file "data:;base64," and its
                bytes in base64.
            file_name: a name whose ending tells the format, such as cloud.xyz, scan.ply, mesh.stl or points.npy.
            adapter: name of the model; by default the first that classifies.

        Returns:
            JSON with adapter, points (how many were read), classes (label, probability; the most probable first).
        """
        name = _chosen(adapters, adapter, lambda one: not one.is_segmenter, "classifies clouds")
        cloud = read(name, content, file_name)
        shares = call("classify", name, cloud).probabilities
        classes = [{"label": label, "probability": round(value, 6)} for label, value in shares.items()]
        return json.dumps({"adapter": name, "points": len(cloud.points), "classes": classes})

    def embed(content: str, file_name: str = "cloud.xyz", adapter: str = "") -> str:
        """Turns a 3D point cloud or mesh into a vector; clouds that are alike have vectors of a high cosine similarity.

        Args:
            content: the file's text, such as a line "x y z" for each point; of a binary file "data:;base64," and its
                bytes in base64.
            file_name: a name whose ending tells the format, such as cloud.xyz, scan.ply, mesh.stl or points.npy.
            adapter: name of the model; by default the first. Vectors of different models cannot be compared.

        Returns:
            JSON with adapter, points (how many were read) and embedding, a list of numbers.
        """
        name = _chosen(adapters, adapter, lambda one: True, "is served")
        cloud = read(name, content, file_name)
        vector = np.round(call("embed", name, cloud).astype(np.float64), 6)
        return json.dumps({"adapter": name, "points": len(cloud.points), "embedding": vector.tolist()})

    def segment(content: str, file_name: str = "cloud.xyz", category: str = "", adapter: str = "") -> str:
        """Labels the points of a 3D point cloud or mesh with the part of the object that each belongs to.

        Args:
            content: the file's text, such as a line "x y z" for each point; of a binary file "data:;base64," and its
                bytes in base64.
            file_name: a name whose ending tells the format, such as cloud.xyz, scan.ply, mesh.stl or points.npy.
            category: what the object is, where the model has categories; an unknown one is answered with those there
                are.
            adapter: name of the model; by default the first that labels points.

        Returns:
            JSON with adapter, points (how many were read), parts (id, name, points, share, confidence), category
            and labels: the part's id of every step-th point in the file's order, -100 of one that was dropped
        """
        name = _chosen(adapters, adapter, lambda one: one.is_segmenter, "labels points")
        categories = adapters[name].categories
        if categories and category not in categories:
            raise Any2PointError(
                f"category must be one of {listed(categories)}, got {category or 'none'}."
                f"{did_you_mean(category, categories)}"
            )
        cloud = read(name, content, file_name)
        labelled = call("segment", name, cloud, category if categories else None)
        answer = {"adapter": name, **labelled.summary(), "points": len(cloud.points)}
        step = -(-len(cloud.points) // SHOWN_POINTS)
        return json.dumps(answer | {"step": step, "labels": labelled.parts.tolist()})

    for tool in (classify, embed, segment):
        gr.api(_telling(tool), api_name=tool.__name__, concurrency_limit=NUMBER, concurrency_id="uploads")


def _telling(tool: Callable[..., str]) -> Callable[..., str]:
    """The tool as gradio takes it: it tells of our errors alone, and finds an argument's description in one line."""

    @functools.wraps(tool)
    def telling(*arguments: Any, **named: Any) -> str:
        try:
            return tool(*arguments, **named)
        except Any2PointError as error:
            raise gr.Error(str(error), print_exception=False) from error
        finally:
            give_back()

    telling.__doc__ = re.sub(r"\n {8,}", " ", inspect.getdoc(tool) or "")
    return telling


def write_content(content: str, file_name: str, folder: Path) -> Path:
    """Writes what a tool was given to a file, whose name takes nothing but its ending from `file_name`.

    Raises:
        PointCloudError: no format ends so, or it is no base64.
    """
    ending = Path(file_name).suffix.lower()
    if ending not in POINT_CLOUD_EXTENSIONS:
        raise PointCloudError(
            f"file_name must end in one of {' '.join(POINT_CLOUD_EXTENSIONS)}, got {ending or 'no ending'}."
        )
    try:
        is_encoded = content.startswith("data:")
        data = base64.b64decode(content.partition(",")[2], validate=True) if is_encoded else content.encode()
    except ValueError as error:  # no base64, or half a character
        raise PointCloudError(
            "content must be text, or 'data:;base64,' and the file's bytes in base64, and this is neither. Encode the "
            "whole file, without line breaks."
        ) from error
    file = folder / f"cloud{ending}"
    file.write_bytes(data)
    return file


def _chosen(adapters: Mapping[str, Adapter], asked: str, fits: Callable[[Adapter], bool], what: str) -> str:
    """The adapter that was asked for, or the first that fits."""
    names = [name for name, adapter in adapters.items() if fits(adapter)]
    if not names:
        raise Any2PointError(f"no adapter of this server {what}. Start it with one: any2point demo --mcp --model ...")
    if asked and asked not in names:
        raise Any2PointError(
            f"adapter must be one that {what} ({listed(names)}), got {asked!r}.{did_you_mean(asked, names)}"
        )
    return asked or names[0]
