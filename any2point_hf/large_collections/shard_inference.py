"""One shard of a batch job: reads its clouds, runs the model on them, writes its file. Every engine calls it."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..modeling.errors import PointCloudError
from ..modeling.tokenizer.point_ops import split_features
from ..point_clouds.files import PointCloud
from ..point_clouds.invalid import DroppedPoints
from ..point_clouds.reading import CloudReader
from ..processing_any2point import Any2PointProcessor
from ..segmentation.labelling import label_whole_cloud
from ..segmentation.whole_cloud import WholeCloud
from .answer_columns import answer_columns
from .clouds import CloudCollection
from .job import BatchJob
from .part_columns import categories_of, part_columns, part_metadata
from .shard_files import DROPPED, ShardFiles


def run_shard(
    model: Any,
    processor: Any2PointProcessor,
    collection: CloudCollection,
    shards: ShardFiles,
    job: BatchJob,
    index: int,
) -> None:
    """Makes one shard and puts it in its place.

    Args:
        model: the job's, as `load_model` gives it, in eval mode.
        processor: of the same adapter.
        collection: all clouds of the job.
        shards: where the shard goes.
        job: what to compute.
        index: of the shard.

    Raises:
        PointCloudError: a cloud cannot be used, and the job does not skip bad clouds.
        DatasetError: the category of a cloud is missing, or none of the model's.
    """
    start = index * job.shard_size
    clouds = collection.part(start, min(start + job.shard_size, len(collection)))
    ids, labels = clouds.ids(), clouds.labels()
    keeps_all = job.task == "segment"  # clouds of any size, so they are held one by one
    categories = categories_of(model, job.category, clouds) if keeps_all else []
    kept: list[int] = []
    dropped: list[int] = []
    bad: list[dict[str, str]] = []
    results: list[Any] = []
    for rows, points, lost, faults in DataLoader(
        _Batches(clouds, processor, 1 if keeps_all else job.batch_size, keeps_all),
        batch_size=None,
        num_workers=job.workers,
    ):
        if faults and not job.skip_bad:
            reason = next(iter(faults.values()))
            raise PointCloudError(
                f"{reason} Finished shards are kept in {shards.folder}; go on with --skip-bad, which lists such clouds "
                "and skips them, or mend it."
            )
        kept += rows
        dropped += lost
        bad += [{"id": ids[row], "reason": reason} for row, reason in faults.items()]
        if keeps_all:
            chosen = [categories[row] for row in rows]
            results += [
                label_whole_cloud(model, whole, category, processor.num_points, job.batch_size)
                for whole, category in zip(points, chosen, strict=True)
            ]
        elif rows:
            results.append(_compute(model, points, job.task))
    columns = {"id": pa.array([ids[row] for row in kept], pa.string())}
    if job.task == "embed":
        columns["embedding"] = _embeddings(results, 2 * model.config.backbone_config.hidden_size)
    elif job.task == "segment":
        columns |= part_columns(model, results)
    else:
        columns |= answer_columns(model, results, job.top, job.min_confidence)
    if labels is not None and not keeps_all:
        name = "label" if job.task == "embed" else "true_label"
        columns[name] = pa.array([labels[row] for row in kept], pa.string())
    if clouds.drop_invalid:
        columns[DROPPED] = pa.array(dropped, pa.int64())
    metadata = part_metadata(model) if keeps_all else None
    shards.write(index, pa.table(columns, metadata=metadata), bad)


class _Batches(Dataset):
    """Batch number -> usable rows, their points, how many each lost, and the faults of others.

    The points are float32 [B, N, 3 + F], or with `keeps_all` all those of each cloud, as a list of WholeCloud.
    """

    def __init__(
        self, clouds: CloudCollection, processor: Any2PointProcessor, batch_size: int, keeps_all: bool
    ) -> None:
        self.clouds, self.processor, self.batch_size, self.keeps_all = clouds, processor, batch_size, keeps_all

    def __len__(self) -> int:
        return math.ceil(len(self.clouds) / self.batch_size)

    def __getitem__(self, batch: int) -> tuple[list[int], Any, list[int], dict[int, str]]:
        start = batch * self.batch_size
        read: dict[int, Any] = {}
        faults: dict[int, str] = {}
        lost: list[int] = []
        for row in range(start, min(start + self.batch_size, len(self.clouds))):
            dropped = DroppedPoints() if self.clouds.drop_invalid else None
            try:
                reader = CloudReader(self.processor.seed, self.processor.point_feature_names, dropped)
                cloud = self.clouds.read_cloud(row, reader)
                read[row] = self._all_points(cloud, dropped) if self.keeps_all else cloud
                lost.append(dropped.count if dropped is not None else 0)
            except PointCloudError as error:  # returned, not raised: a reading process would add its traceback
                faults[row] = str(error)
        if self.keeps_all or not read:
            return list(read), list(read.values()), lost, faults
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*repeats are added")  # it would come for each small cloud
            points = self.processor.rows(list(read.values()))
        return list(read), points, lost, faults

    def _all_points(self, cloud: PointCloud, dropped: DroppedPoints | None) -> WholeCloud:
        """The cloud as the model takes it, and which of the points in the source are its own."""
        whole = self.processor.all_points(cloud)
        return whole if dropped is None else WholeCloud(whole.batch, dropped.left[whole.kept], dropped.points)


@torch.no_grad()
def _compute(model: Any, points: Tensor, task: str) -> Tensor:
    """Points [B, N, 3 + F] -> pooled features [B, 2D] or logits [B, num_labels], float32 on the CPU."""
    outputs = model(*split_features(points.to(model.device)))
    return (outputs.pooler_output if task == "embed" else outputs.logits).float().cpu()


def _embeddings(results: Sequence[Tensor], width: int) -> pa.Array:
    rows = torch.cat([torch.empty(0, width), *results])
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.flatten().numpy()), width)
