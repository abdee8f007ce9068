"""Sentences evaluated in batches of like length, padded to the longest of the batch only, against padding to 512.

Both ways see the same sentences and the same network in one run: MiniLM-L6 with a classifier fitted by least squares
(`make train` installs the package it is read from), or any text checkpoint by `--checkpoint`.
"""

import argparse
import statistics
import time
from collections.abc import Iterator

import torch
from torch.nn.functional import pad

from raffm_utils import Supernet, load_split
from raffm_utils.data import Split
from raffm_utils.federated import RECIPES, fit_classifier, start

FULL_LENGTH = 512
NAMED = "bert-mini-movie-reviews-small-budget"


def batches(data: Split, batch_size: int, padded: bool) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
    """The batches that `evaluate` asks for, as they are or padded to `FULL_LENGTH` tokens."""
    for inputs, labels in data.batches(batch_size):
        if padded:
            missing = FULL_LENGTH - inputs["input_ids"].shape[1]
            inputs = {name: pad(tensor, (0, missing)) for name, tensor in inputs.items()}  # padding is token 0
        yield inputs, labels


@torch.inference_mode()
def measure(model: torch.nn.Module, data: Split, batch_size: int, padded: bool) -> tuple[float, torch.Tensor]:
    """(sentences a second, the answers in order of length)."""
    answers, begin = [], time.perf_counter()
    for inputs, _ in batches(data, batch_size, padded):
        answers.append(model(**inputs).logits.argmax(1))
    return len(data) / (time.perf_counter() - begin), torch.cat(answers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", help="a text checkpoint; default: the untrained foundation model")
    parser.add_argument("--examples", type=int, default=256, help="test sentences (256)")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.checkpoint:
        supernet = Supernet.from_pretrained(arguments.checkpoint)
        dataset, processor = str(supernet.spec.provenance["dataset"]), supernet.processor
    else:
        dataset = RECIPES[NAMED].dataset
        supernet, processor = start(RECIPES[NAMED])
        fit_classifier(supernet, load_split(dataset, "train", limit=1000, processor=processor))
    data = load_split(dataset, "test", limit=arguments.examples, processor=processor)
    truth = torch.cat([labels for _, labels in data.batches(len(data))])
    speeds: dict[bool, list[float]] = {False: [], True: []}
    answers = {}
    for _ in range(arguments.repeats):
        for padded, batch_size in ((False, 128), (True, 16)):  # the larger batch is the slower one at 512 tokens
            speed, answers[padded] = measure(supernet.model, data, batch_size, padded)
            speeds[padded].append(speed)
    short, long = (statistics.median(speeds[padded]) for padded in (False, True))
    for name, padded, speed in (("grouped by length", False, short), (f"padded to {FULL_LENGTH}", True, long)):
        accuracy = float((answers[padded] == truth).float().mean())
        print(f"{name:18} {speed:8.1f} sentences/s   accuracy {accuracy:.4f} on {len(data):,} {dataset} test sentences")
    print(f"{short / long:.1f} times the throughput; {int((answers[False] != answers[True]).sum())} answers differ")


if __name__ == "__main__":
    main()
