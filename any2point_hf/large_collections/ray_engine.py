"""The shards of a job dealt out to the actors of a Ray cluster, on one machine or many (the extra `ray`).

Ray Data gives the shards to the actors; it restarts an actor that died and gives it its shards again. All paths of a
job must mean the same on every machine: source, adapter, backbone and output lie on a shared file system.
"""

import logging
import os
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from tqdm import tqdm
from transformers.utils.logging import is_progress_bar_enabled

from ..modeling.errors import Any2PointError
from ..modeling.hub.names import pinned_name
from ..quiet import keep_libraries_quiet
from ..training.output_lock import output_lock
from .clouds import CloudCollection
from .job import BatchJob, check_model, load_model, open_job
from .shard_files import ShardFiles
from .shard_inference import run_shard


class ShardWorker:
    """Makes shards; loads the model with its first one. Ray Data calls it with rows {"item": number of the shard}."""

    def __init__(self, job: BatchJob, collection: CloudCollection, shards: ShardFiles) -> None:
        keep_libraries_quiet()  # the bars of many processes would be mixed
        self.job, self.collection, self.shards = job, collection, shards
        self.loaded: Any = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Makes one shard. An error that a user can mend is returned as text, or Ray would wrap it in its traceback."""
        index = int(row["item"])
        fault = ""
        if not self.shards.is_finished(index):  # a restarted actor is given all of its shards again
            try:
                if self.loaded is None:
                    self.loaded = load_model(self.job)
                    check_model(self.job, self.shards)
                model, processor = self.loaded
                run_shard(model, processor, self.collection, self.shards, self.job, index)
            except Any2PointError as error:
                fault = str(error)
        return {"shard": index, "fault": fault}


def run_with_ray(job: BatchJob, worker: type[ShardWorker] = ShardWorker) -> dict[str, int]:
    """Runs a job on a Ray cluster: an actor on each GPU, or if it has none on every `1 + job.workers` CPUs.

    The cluster is the one that this process is connected to, that RAY_ADDRESS names or that runs on this machine; if
    there is none, one is started here for this process.

    Args:
        job: what to compute.
        worker: what makes the shards.

    Returns:
        As `run_job`.

    Raises:
        Any2PointError: Ray is not installed, or as `run_job`.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when Ray is imported
    try:
        import ray.data  # noqa: F401 - used by `_make_missing`
    except ImportError as error:
        raise Any2PointError(
            f'--engine ray needs Ray, and {error.name} is not installed. Run: pip install "any2point-hf[ray]"'
        ) from error
    job = replace(job, model=pinned_name(job.model))  # all actors take one commit of the adapter
    collection, shards = open_job(job)
    with nullcontext() if job.out.exists() else output_lock(shards.folder):
        shards.start()
        _make_missing(job, collection, shards, worker)
        shards.join()
    return shards.counts()


def _make_missing(job: BatchJob, collection: CloudCollection, shards: ShardFiles, worker: type[ShardWorker]) -> None:
    """Has the actors make the shards that are not finished."""
    import ray.data

    missing = shards.missing()
    if missing:
        level = logging.INFO if is_progress_bar_enabled() else logging.ERROR  # its warnings are of Ray's own settings
        logging.getLogger("ray.data").setLevel(level)
        if not ray.is_initialized():
            ray.init(logging_level=level)
        resources = ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), 1 + job.workers
        size = gpus or max(int(resources.get("CPU", 0)) // cpus, 1)
        ray.data.DataContext.get_current().enable_progress_bars = False  # they count blocks; ours counts shards
        needs: dict[str, Any] = {"num_gpus": 1} if gpus else {"num_cpus": cpus}
        # one block for each shard: a block is what an actor takes, and what is repeated if it dies
        results = ray.data.from_items(missing, override_num_blocks=len(missing)).map(
            worker,  # type: ignore[arg-type]  # a class is called as a function is
            fn_constructor_args=(job, collection, shards),
            compute=ray.data.ActorPoolStrategy(size=min(size, len(missing))),
            **needs,
        )
        for result in tqdm(results.iter_rows(), total=len(missing), desc=job.task, unit="shard", disable=None):
            if result["fault"]:
                raise Any2PointError(result["fault"])
