"""Embeddings and predictions of collections larger than memory: shard by shard, in any number of processes.

A shard is `shard_size` clouds in the order of the source; whatever process takes it, `run_shard` makes it, and what is
finished is never made again. No scheduler of our own: the processes of accelerate share the shards out here, Ray Data
gives them to its actors in `ray_engine.py`.
"""

from datetime import timedelta

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from tqdm import tqdm

from ..modeling.errors import Any2PointError
from ..trained_adapter import load
from .job import BatchJob, open_job
from .shard_inference import run_shard

ENGINES = ("accelerate", "ray")
_LONGEST_WAIT = timedelta(days=7)  # of a process that has no more shards for the others


def run_job(job: BatchJob, engine: str = "accelerate") -> dict[str, int]:
    """Runs a job to its end, or goes on with it; one that is complete is left as it is.

    Args:
        job: what to compute.
        engine: "accelerate" for the processes that `accelerate launch` started, or this one alone; "ray" for a
            cluster of Ray.

    Returns:
        `clouds` in the output and `skipped` bad ones. The output has the columns `id`, for "embed" `embedding`
        (float32 [2D]) and maybe `label`, for "predict" `label`, `probability`, `top` (label and probability of each)
        and maybe `true_label`.

    Raises:
        Any2PointError: whatever of the input does not fit, or other settings than those of the finished shards.
    """
    if engine not in ENGINES:
        raise Any2PointError(f"--engine must be one of {', '.join(ENGINES)}, got {engine!r}.")
    if engine == "ray":
        from .ray_engine import run_with_ray

        return run_with_ray(job)
    return run_with_accelerate(job)


def run_with_accelerate(job: BatchJob) -> dict[str, int]:
    """Runs a job in the processes of accelerate: each takes every n-th of the missing shards, the first joins them."""
    # told that there is no GPU, or it would take the processes of torchrun on a CPU for single ones
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=_LONGEST_WAIT)
    collection, shards = open_job(job)
    if state.is_main_process:
        shards.start()
    # listed once: the folder changes as soon as the first process begins
    (missing,) = broadcast_object_list([shards.missing() if state.is_main_process else None])
    mine = missing[state.process_index :: state.num_processes]
    if mine:
        model, processor = load(job.model, job.backbone)
        for index in tqdm(mine, desc=job.task, unit="shard", disable=not state.is_main_process):
            run_shard(model, processor, collection, shards, job, index)
    state.wait_for_everyone()
    if state.is_main_process:
        shards.join()
    state.wait_for_everyone()
    return shards.counts()
