"""Embeddings and predictions of collections larger than memory: shard by shard, in any number of processes.

A shard is `shard_size` clouds in the order of the source. Whichever process takes a shard, `run_shard` makes it, and a
finished shard is never made again. There is no scheduler of our own: here the processes of accelerate divide the shards
among themselves, and in `ray_engine.py` Ray Data gives them to its actors.
"""

from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from tqdm import tqdm

from ..modeling.errors import Any2PointError
from ..modeling.hub.names import pinned_name
from ..training.output_lock import output_lock_of_all
from .job import BatchJob, check_model, load_model, open_job
from .shard_inference import run_shard

ENGINES = ("accelerate", "ray")
_LONGEST_WAIT = timedelta(days=7)  # for which a process without further shards waits for the others


def run_job(job: BatchJob, engine: str = "accelerate") -> dict[str, int]:
    """Runs a job to its end, or goes on with it; one that is complete is left as it is.

    Args:
        job: what to compute.
        engine: "accelerate" for the processes that `accelerate launch` started, or this one alone; "ray" for a
            cluster of Ray.

    Returns:
        The number of `clouds` in the output and of `skipped` bad ones, and with `drop_invalid` the `dropped_points` and
        `clouds_with_dropped_points`. The output has the column `id`; for "embed" also `embedding` (float32 [2D]) and,
        if the source has labels, `label`; for "predict" also `label`, `probability`, `top` (label and probability of
        each), with `min_confidence` also `answer` (None where nothing is as probable) and, if the source has labels,
        `true_label`; for "segment" also `parts`
        (a list of int16, an id for each of the cloud's points in their order), `confidence`, their mean probability,
        and, if the model has categories, `category`. With `drop_invalid`, but of a .npz, all have `dropped_points`, how
        many of each cloud.

    Raises:
        Any2PointError: something in the input does not fit, the finished shards were made with other settings, or
            another run makes the same output.
    """
    if engine not in ENGINES:
        raise Any2PointError(f"--engine must be one of {', '.join(ENGINES)}, got {engine!r}.")
    if engine == "ray":
        from .ray_engine import run_with_ray

        return run_with_ray(job)
    return run_with_accelerate(job)


def run_with_accelerate(job: BatchJob) -> dict[str, int]:
    """Runs a job in the processes of accelerate: each of n takes every n-th missing shard, the first joins them."""
    # without a GPU it must be told so, or it would take each process of torchrun for a single one
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=_LONGEST_WAIT)
    # all processes take one commit of the adapter
    found = [pinned_name(job.model), job.out.exists()] if state.is_main_process else [None, None]
    model, is_complete = broadcast_object_list(found)
    job = replace(job, model=model)
    collection, shards = open_job(job)
    with nullcontext() if is_complete else output_lock_of_all(shards.folder):
        if state.is_main_process:
            shards.start()
        # listed once: the folder changes as soon as the first process begins
        (missing,) = broadcast_object_list([shards.missing() if state.is_main_process else None])
        mine = missing[state.process_index :: state.num_processes]
        if mine:
            adapter, processor = load_model(job)
            check_model(job, shards)
            for index in tqdm(mine, desc=job.task, unit="shard", disable=None if state.is_main_process else True):
                run_shard(adapter, processor, collection, shards, job, index)
        state.wait_for_everyone()
        if state.is_main_process:
            shards.join()
    state.wait_for_everyone()
    return shards.counts()
