"""datatrove's pipelines over a Parquet file, in one process: JOB FILE OUT, with JOB filter, exact or near.

filter: Gopher repetition, Gopher quality, C4 and FineWeb filters, in FineWeb's order; a document that one drops isn't
looked at by the next. exact: its three stages. near: its four stages of MinHash with their standard settings (5-grams,
14 buckets of 8 hashes, 64 bits). All write the documents left to Parquet.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup import (
    ExactDedupConfig,
    ExactDedupFilter,
    ExactDedupSignature,
    ExactFindDedups,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.writers import ParquetWriter


def content(document: Document) -> str:
    return document.text


def execute(out: Path, *steps: PipelineStep, tasks: int = 1) -> None:
    logs = tempfile.mkdtemp(dir=out)
    LocalPipelineExecutor(list(steps), tasks=tasks, workers=1, logging_dir=logs, skip_completed=False).run()


def main(job: str, file: Path, out: Path) -> None:
    out.mkdir(exist_ok=True)

    def reader() -> ParquetReader:
        return ParquetReader(str(file.parent), glob_pattern=file.name)

    writer = ParquetWriter(str(out / "documents"), compression="zstd")
    signatures, found = str(out / "signatures"), str(out / "found")
    if job == "filter":
        filters = (GopherRepetitionFilter(), GopherQualityFilter(), C4QualityFilter(), FineWebQualityFilter())
        execute(out, reader(), *filters, writer)
    elif job == "exact":
        config = ExactDedupConfig(content)
        execute(out, reader(), ExactDedupSignature(signatures, config))
        execute(out, ExactFindDedups(signatures, found, config))
        execute(out, reader(), ExactDedupFilter(found, config), writer)
    else:
        config = MinhashConfig()
        execute(out, reader(), MinhashDedupSignature(signatures, config))
        execute(out, MinhashDedupBuckets(signatures, found, config=config), tasks=config.num_buckets)
        execute(out, MinhashDedupCluster(found, str(out / "clusters"), config=config))
        execute(out, reader(), MinhashDedupFilter(str(out / "clusters")), writer)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
