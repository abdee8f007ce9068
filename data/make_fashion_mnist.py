"""Make `fashion_mnist/{test,train-validation}.parquet` from the idx files of Zalando's Fashion-MNIST.

    python data/make_fashion_mnist.py [folder with the four *-ubyte.gz files]

The default folder is where the Debian package dataset-fashion-mnist puts them. The checksums printed are
those in README.md; that of the pixels does not depend on the versions of the PNG and parquet writers.
"""

import gzip
import hashlib
import io
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet
from PIL import Image

from raffm_utils.data import split_indices
from raffm_utils.data.sources import DATASETS, VALIDATION_FILE, read_idx

# Of what is inside the gzip files, because the Debian package compresses them anew.
SOURCES = {
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
FOLDER = Path(__file__).resolve().parent / "fashion_mnist"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def png(image: Image.Image) -> dict[str, object]:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=0)  # the parquet file compresses better, across images
    return {"bytes": buffer.getvalue(), "path": None}


def main(folder: Path) -> None:
    for name, expected in SOURCES.items():
        found = sha256(gzip.decompress((folder / name).read_bytes()))
        if found != expected:
            sys.exit(f"{folder / name} holds data of SHA-256 {found}, not {expected}: it is not the published file")
    write(read_idx(folder, "test"), "test")
    train, spec = read_idx(folder, "train"), DATASETS["fashion_mnist"]
    write(train.select(split_indices(len(train), spec.validation_size)["validation"]), VALIDATION_FILE)


def write(source: datasets.Dataset, name: str) -> None:
    """One parquet file, and what there is to know of it."""
    images, target = list(source["image"]), FOLDER / f"{name}.parquet"
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=list(DATASETS["fashion_mnist"].label_names)),
        }
    )
    rows = {"image": [png(image) for image in images], "label": list(source["label"])}
    FOLDER.mkdir(exist_ok=True)
    table = datasets.Dataset.from_dict(rows, features=features).data.table
    table = table.replace_schema_metadata(features.arrow_schema.metadata)
    # Statistics would hold two whole images, and a dictionary of images that are all different is a waste.
    options = dict(compression="zstd", compression_level=19, write_statistics=False, use_dictionary=["label"])
    pyarrow.parquet.write_table(table, target, **options)
    pixels = np.stack([np.asarray(image) for image in images])
    print(f"{target}: {len(images)} images, {target.stat().st_size} bytes")
    print(f"SHA-256 of the file   {sha256(target.read_bytes())}")
    print(f"SHA-256 of the pixels {sha256(pixels.tobytes())}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else DATASETS["fashion_mnist"].idx_folder or "."))
