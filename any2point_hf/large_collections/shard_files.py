"""The finished shards of a long run: one file each beside the output, joined when all are there.

`OUT.shards` holds `run.json` (the settings that decide the result) and for each finished shard `00000.parquet`, with
`00000.bad.jsonl` where clouds were skipped. Every file is written under another name and then renamed, so a kill at any
moment leaves only whole shards. The joined file has the settings in its schema's metadata.
"""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from ..modeling.backbones.fingerprint import BACKBONE_FILES
from ..modeling.errors import Any2PointError
from ..modeling.files import read_record
from .model_fingerprint import LORA

RUN_FILE = "run.json"
DROPPED = "dropped_points"
"""The column that counts the invalid points of each cloud, where they are dropped."""

_METADATA = b"any2point_run"


class ShardFiles:
    """Knows where the shards of a run are, and which of them are finished.

    Args:
        out: the parquet file that the run makes.
        settings: that decide the result, JSON-able; shards made with others are never mixed with these.
        num_shards: of the whole run.

    Raises:
        Any2PointError: `out` or its shards are there already, and were made with other settings.
    """

    def __init__(self, out: Path, settings: dict[str, Any], num_shards: int) -> None:
        self.out = out
        self.folder = out.with_name(out.name + ".shards")
        self.bad_report = out.with_suffix(".bad.jsonl")
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self.num_shards = num_shards
        self.check()

    def check(self) -> None:
        """Compares the settings with those of what is there already.

        Raises:
            Any2PointError: they differ.
        """
        if self.out.exists():
            earlier = read_settings(self.out, "Choose another file, or delete it.")
            self._check({**self._unrecorded(earlier), **earlier}, self.out)
        elif any(self.folder.glob("*.parquet")):
            earlier = read_record(self.folder / RUN_FILE, fix="Choose another file, or delete the folder.")
            if self._unrecorded(earlier):
                raise Any2PointError(
                    f"{self.folder} is of an earlier version, which did not record the backbone's files: whether its "
                    "shards are of the backbone that is there now cannot be told. Choose another file, or delete it."
                )
            self._check(earlier, self.folder)

    def _unrecorded(self, earlier: dict[str, Any]) -> dict[str, Any]:
        """The settings of this run that an earlier version did not record."""
        return {
            name: self.settings[name]
            for name in (BACKBONE_FILES, LORA)
            if name in self.settings and name not in earlier
        }

    def _check(self, earlier: dict[str, Any], place: Path) -> None:
        names = {**self.settings, **earlier}
        if BACKBONE_FILES not in self.settings:  # it is not here, and a complete output does not need it
            names.pop(BACKBONE_FILES, None)
        changed = [name for name in names if earlier.get(name) != self.settings.get(name)]
        if changed:
            raise Any2PointError(
                f"{place} is of a run with other settings, these differ: "
                + ", ".join(f"{name} was {earlier.get(name)!r}, is {self.settings.get(name)!r}" for name in changed)
                + ". Give the same ones, choose another file, or delete it."
            )

    def start(self) -> None:
        """Makes the folder and records the settings, unless the output is there.

        Raises:
            Any2PointError: another run has ended since, and had other settings.
        """
        self.check()
        if self.out.exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._put(RUN_FILE, (json.dumps(self.settings, indent=2) + "\n").encode())

    def is_finished(self, index: int) -> bool:
        """Whether a shard's file is there."""
        return self._path(index).is_file()

    def missing(self) -> list[int]:
        """The numbers of the unfinished shards, in order; none once the output is there."""
        return [] if self.out.exists() else [i for i in range(self.num_shards) if not self.is_finished(i)]

    def first_bad(self) -> dict[str, str] | None:
        """The first entry of the finished shards' reports of bad clouds; None if there is none."""
        for report in sorted(self.folder.glob("*.bad.jsonl")):
            try:
                entry = json.loads(report.read_text(encoding="utf-8").splitlines()[0])
                return {name: entry[name] for name in ("id", "reason")}
            except (ValueError, LookupError, TypeError) as error:
                raise Any2PointError(
                    f"{report} is damaged: {error}. Delete the folder, and give the same command again."
                ) from error
        return None

    def write(self, index: int, table: pa.Table, bad: Sequence[dict[str, str]]) -> None:
        """Puts a finished shard in its place.

        Args:
            index: of the shard.
            table: its results.
            bad: `id` and `reason` of each skipped cloud; written before the table, because a shard with a table counts
                as finished.

        Raises:
            OSError: the folder cannot be written, or the disk is full.
        """
        if bad:
            lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in bad)
            self._put(f"{index:05d}.bad.jsonl", lines.encode())
        beside = self.folder / f"{uuid4().hex}.tmp"
        pq.write_table(table, beside, use_dictionary=_repeats(table.schema))
        os.replace(beside, self._path(index))

    def join(self) -> None:
        """Joins all shards to the output, a row group each, and the reports of bad clouds; then removes the folder.

        Raises:
            Any2PointError: not one cloud could be used.
        """
        if not self.out.exists():
            self._join_reports()
            self._join_tables()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _join_reports(self) -> None:
        reports = sorted(self.folder.glob("*.bad.jsonl"), key=lambda path: int(path.name.partition(".")[0]))
        if not reports:
            self.bad_report.unlink(missing_ok=True)
            return
        beside = self.folder / f"{uuid4().hex}.tmp"
        with beside.open("wb") as joined:
            for report in reports:
                joined.write(report.read_bytes())
        os.replace(beside, self.bad_report)

    def _join_tables(self) -> None:
        schema = self._read(0).schema
        schema = schema.with_metadata({**(schema.metadata or {}), _METADATA: json.dumps(self.settings).encode()})
        beside, rows = self.folder / f"{uuid4().hex}.tmp", 0
        with pq.ParquetWriter(beside, schema, use_dictionary=_repeats(schema)) as writer:
            for index in range(self.num_shards):
                table = self._read(index)
                if len(table):
                    writer.write_table(table, row_group_size=len(table))
                rows += len(table)
        if not rows:
            raise Any2PointError(f"not one cloud of {self.settings['source']} can be used: see {self.bad_report}.")
        os.replace(beside, self.out)

    def _read(self, index: int) -> pa.Table:
        try:
            with pq.ParquetFile(self._path(index)) as shard:
                return shard.read()
        except (OSError, pa.ArrowException) as error:
            raise Any2PointError(
                f"{self._path(index)} is damaged: {error}. Delete it, and give the same command again."
            ) from error

    def counts(self) -> dict[str, int]:
        """The number of `clouds` in the output and of `skipped` bad ones.

        Where invalid points were dropped, also `dropped_points` and `clouds_with_dropped_points`.
        """
        with pq.ParquetFile(self.out) as file:
            rows = file.metadata.num_rows
            is_counted = DROPPED in file.schema_arrow.names
            dropped = file.read([DROPPED])[DROPPED].to_numpy() if is_counted else None
        counts = {"clouds": rows, "skipped": self.settings["clouds"] - rows}
        if dropped is not None:
            counts |= {DROPPED: int(dropped.sum()), f"clouds_with_{DROPPED}": int((dropped > 0).sum())}
        return counts

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:05d}.parquet"

    def _put(self, name: str, content: bytes) -> None:
        beside = self.folder / f"{uuid4().hex}.tmp"
        beside.write_bytes(content)
        os.replace(beside, self.folder / name)


def _repeats(schema: pa.Schema) -> bool:
    """Whether a dictionary of the values makes a file smaller: it does for names and parts, not for embeddings."""
    return "embedding" not in schema.names


def read_settings(out: Path, fix: str) -> dict[str, Any]:
    """The settings that an output was made with.

    Args:
        out: a file that a run joined.
        fix: the last sentence of the error.

    Raises:
        Any2PointError: the file is no output of a run.
    """
    try:
        return dict(json.loads((pq.read_schema(out).metadata or {})[_METADATA]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Any2PointError(f"{out} exists and is no output of such a run. {fix}") from error
