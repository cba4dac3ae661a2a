"""The preparation of a table as the textbook writes it, with pandas and scikit-learn.

Reads a CSV, drops rows with missing values and duplicates, writes the cleaned CSV, splits into three stratified parts,
standardises by the training part, saves float32 arrays. The last line of standard output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("csv", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    start = time.perf_counter()
    frame = pd.read_csv(options.csv)
    frame = frame.dropna().drop_duplicates()
    before_writing = time.perf_counter()
    frame.to_csv(options.folder / "cleaned.csv", index=False)
    writing = time.perf_counter() - before_writing
    features, target = frame.drop(columns="target"), frame["target"]
    rest, test, rest_target, _ = train_test_split(features, target, test_size=0.2, random_state=42, stratify=target)
    train, validation = train_test_split(rest, test_size=0.125, random_state=42, stratify=rest_target)
    scaler = StandardScaler().fit(train)
    for name, part in (("train", train), ("validation", validation), ("test", test)):
        np.save(options.folder / f"{name}.npy", scaler.transform(part).astype(np.float32))
    report = {
        "rows": len(frame),
        "seconds": round(time.perf_counter() - start, 2),
        "seconds_writing_csv": round(writing, 2),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "pandas": pd.__version__,
    }
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
