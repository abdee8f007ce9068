"""What a deployed submodel takes on disk and in time, and how well it classifies, in four formats.

Full network, half of its parameters, smallest; each as float32, float16 storage, int8 dynamic, int8 static, all run
by onnxruntime. Accuracy is of the whole test split; static int8 is calibrated on training examples. Nothing is chosen:
"half" is the first submodel drawn just under half of the parameters. Also the time of one `deploy`.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from raffm_utils import (
    Budget,
    Supernet,
    deploy,
    evaluate,
    export_submodel,
    load_split,
)
from raffm_utils.deployment import FORMATS, QUANTIZATION_EXAMPLES, GraphClassifier
from raffm_utils.evaluation import processor_name
from raffm_utils.space import near_the_limit
from raffm_utils.writing import write_atomically

CHECKPOINT = "vit-small-fashion-mnist-large-budget"
MEASURED = ("onnx", "onnx-float16", "onnx-int8-dynamic", "onnx-int8-static")
WARM_UP = 5
RESULTS = Path(__file__).with_suffix(".json")


def latencies_ms(folders: dict[str, Path], image: dict[str, np.ndarray], repeats: int) -> dict[tuple[str, str], float]:
    """Median milliseconds of one example on one thread, for every submodel and format."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # waiting threads of one session would slow the others down
    sessions = {
        (size, name): onnxruntime.InferenceSession(
            folder / FORMATS[name][0], options, providers=["CPUExecutionProvider"]
        )
        for size, folder in folders.items()
        for name in MEASURED
    }
    times: dict[tuple[str, str], list[float]] = {key: [] for key in sessions}
    for repeat in range(-WARM_UP, repeats):
        for key, session in sessions.items():  # all take turns, so that all see the same machine
            start = time.perf_counter()
            session.run(None, image)
            if repeat >= 0:
                times[key].append(1000 * (time.perf_counter() - start))
    return {key: statistics.median(values) for key, values in times.items()}


def measure(supernet: Supernet, arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """One row for each submodel and format."""
    half = Budget(max_parameters=supernet.cost(supernet.full).parameters // 2)
    (halved,) = near_the_limit(supernet.space, half, 1, np.random.default_rng(0))
    configs = {"full": supernet.full, "half": halved, "smallest": supernet.space.smallest()}
    data, calibration = (
        load_split("fashion_mnist", split, limit=limit, processor=supernet.processor)
        for split, limit in (("test", arguments.examples), ("train", QUANTIZATION_EXAMPLES))
    )
    written = {
        size: export_submodel(
            supernet.extract(config), folder / size, MEASURED, processor=supernet.processor, calibration=calibration
        )
        for size, config in configs.items()
    }
    inputs, _ = next(data.batches(1))
    image = {name: tensor.numpy() for name, tensor in inputs.items()}
    latency = latencies_ms({size: folder / size for size in configs}, image, arguments.repeats)
    rows = []
    for (size, name), milliseconds in latency.items():
        (found,) = (file for file in written[size].formats if file.format == name)
        classifier: Any = GraphClassifier(folder / size / found.file, supernet.model.config, tuple(image))
        result = evaluate(classifier, data)
        rows.append(
            {
                "submodel": size,
                "parameters": written[size].parameters,
                "format": name,
                "bytes": found.bytes,
                "latency_ms": round(milliseconds, 2),
                **{key: getattr(result, key) for key in ("accuracy", "low", "high", "examples")},
                "split": data.split,
            }
        )
        print(row_text(rows[-1]), flush=True)
    return rows


def row_text(row: dict[str, Any]) -> str:
    """A line of the table."""
    return (
        f"| {row['submodel']} | {row['parameters'] / 1e6:.2f} M | {row['format']} | {row['bytes'] / 1e6:.2f} MB "
        f"| {row['latency_ms']:.1f} ms | {row['accuracy']:.2%} | {row['low']:.2%} to {row['high']:.2%} |"
    )


def main() -> None:
    """Measure, print a table, and write `deployment.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=10000, help="test examples (10000, all)")
    parser.add_argument("--repeats", type=int, default=200, help="timed runs of one example in each format (200)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results go")
    arguments = parser.parse_args()
    supernet, load_before = Supernet.from_pretrained(CHECKPOINT), os.getloadavg()[0]
    print("| submodel | parameters | format | file | latency | accuracy | 95 % interval |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        rows = measure(supernet, arguments, Path(temporary))
        start = time.perf_counter()
        deploy(CHECKPOINT, Budget(max_parameters=12e6), Path(temporary, "deployed"), progress=False)
        seconds = time.perf_counter() - start
    print(f"deploy within 12 M parameters, defaults: {seconds:.0f} s from budget to verified folder")
    machine = {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "load_average_before": round(load_before, 1),
        **{name: version(name) for name in ("torch", "transformers", "onnx", "onnxruntime")},
    }
    content = {"checkpoint": CHECKPOINT, "deploy_12M_seconds": round(seconds), "machine": machine, "rows": rows}
    write_atomically(arguments.out, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
