"""Sources of the raw examples of a dataset, and the form that every source must have.

A dataset is looked for, in this order: beside the package (`data/<name>/<split>.parquet`), in the folder
that the environment variable `RAFFM_DATA` names, in a Debian package, on the Hugging Face hub.
"""

import gzip
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError
from ..files import REPOSITORY, at_home
from ..hub import hub_reachable
from .encoding import Pixels, Tokens

if TYPE_CHECKING:
    import datasets


EMBEDDED = REPOSITORY / "data"
VALIDATION_FILE = "train-validation"  # the part of train that is cut off as validation, embedded where train is not
DATA_VARIABLE = "RAFFM_DATA"


@dataclass(frozen=True)
class DatasetSpec:
    """Where a dataset is published and how it is laid out there."""

    encoding: type[Pixels] | type[Tokens]
    input_columns: tuple[str, ...]  # names in use for the input, the first that is there is taken
    label_column: str
    label_names: tuple[str, ...]
    hub: str | None = None
    validation_size: int = 5000  # at most a tenth of the published train split
    test_from: str = "test"  # the published split that plays `test`
    idx_folder: str | None = None  # where the Debian package `idx_package` puts idx files
    idx_package: str = ""
    same_source: tuple[str, ...] = ()  # datasets whose test examples may be in this one's train split


_IMAGE, _TEXT = ("image", "img"), ("sentence", "text")
_FASHION: tuple[str, ...] = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat")

_FASHION += ("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


_CIFAR100 = tuple(
    """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
    camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
    dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
    leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
    otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
    road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
    sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm
    """.split()  # noqa: SIM905 - a list of 100 strings would take a page
)
DATASETS = {
    "fashion_mnist": DatasetSpec(
        Pixels,
        _IMAGE,
        "label",
        _FASHION,
        hub="zalando-datasets/fashion_mnist",
        idx_folder="/usr/share/datasets/fashion-mnist",
        idx_package="dataset-fashion-mnist",
    ),
    "cifar10": DatasetSpec(
        Pixels,
        _IMAGE,
        "label",
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        hub="uoft-cs/cifar10",
    ),
    "cifar100": DatasetSpec(Pixels, _IMAGE, "fine_label", _CIFAR100, hub="uoft-cs/cifar100"),
    # The labels of GLUE's own test split are hidden: its validation split (872 sentences) is our test split.
    "sst2": DatasetSpec(
        Tokens,
        _TEXT,
        "label",
        ("negative", "positive"),
        hub="stanfordnlp/sst2",
        validation_size=872,
        test_from="validation",
        same_source=("movie_reviews",),
    ),
    "movie_reviews": DatasetSpec(
        Tokens, _TEXT, "label", ("negative", "positive"), validation_size=872, same_source=("sst2",)
    ),
}


def read_idx(folder: str | Path, published: str) -> "datasets.Dataset":
    """Images and labels of a split in the idx format of MNIST."""
    import datasets

    prefix = Path(folder) / {"train": "train", "test": "t10k"}[published]
    with gzip.open(f"{prefix}-images-idx3-ubyte.gz") as file:
        data = file.read()
    _, count, height, width = np.frombuffer(data, ">u4", 4).tolist()
    pixels = np.frombuffer(data, np.uint8, offset=16).reshape(count, height * width)
    with gzip.open(f"{prefix}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    header = f"P5 {width} {height} 255\n".encode()  # as PGM files: compressing 60,000 PNG would take a while
    images = [{"bytes": header + row.tobytes(), "path": None} for row in pixels]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    return datasets.Dataset.from_dict({"image": images, "label": labels.astype(np.int64)}, features=features)


def _read_local(path: Path) -> "datasets.Dataset":
    import datasets
    import pyarrow
    import pyarrow.parquet

    try:
        if path.is_dir():
            return datasets.load_from_disk(str(path)).flatten_indices()
        return datasets.Dataset(pyarrow.parquet.read_table(path))  # in memory, without a second copy on disk
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); replace or remove it") from error


def _from_hub(hub: str, published: str, message: str) -> "datasets.Dataset":
    from huggingface_hub import constants

    # where the library knows that it is offline, it finds what an earlier call has downloaded
    if not constants.HF_HUB_OFFLINE and not hub_reachable():
        raise DataError(f"{message} (the Hugging Face hub, {hub}, does not answer, or HF_HUB_OFFLINE is set)")
    import datasets

    try:
        return datasets.load_dataset(hub, split=published)
    except Exception as error:  # the library raises many kinds, some of them private
        raise DataError(f"{message} ({hub}: {' '.join(str(error).split())})") from error


def _find(name: str, spec: DatasetSpec, published: str) -> "datasets.Dataset":
    """The published split from the first source that has it."""
    files = [EMBEDDED / name / f"{published}.parquet"]
    local = os.environ.get(DATA_VARIABLE)
    if local:
        root = at_home(local, DATA_VARIABLE)
        if not root.is_dir():
            raise DataError(f"{DATA_VARIABLE}={local} is not a folder; correct it or unset it")
        files += [root / name / f"{published}.parquet", root / f"{name}-{published}.parquet"]
        files += [root / name / published]  # as DatasetDict.save_to_disk writes it
    for path in files:
        if path.is_file() or (path / "state.json").is_file():
            return _read_local(path)
    if spec.idx_folder and Path(spec.idx_folder).is_dir():
        try:
            return read_idx(spec.idx_folder, published)
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise DataError(f"{spec.idx_folder}: {error}; reinstall the package {spec.idx_package}") from error
    wanted = f"{name}/{published}.parquet"
    remedies = [f"set {DATA_VARIABLE} to a folder that holds {wanted} (it is {local or 'not set'})"]
    remedies += [f"install the Debian package {spec.idx_package}"] if spec.idx_package else []
    if spec.hub is None:
        raise DataError(f"{name} has no {published} split bundled here and is not on the hub: {remedies[0]}")
    message = f"no {published} split of {name}: {', or '.join([*remedies, 'go online'])}"
    return _from_hub(spec.hub, published, message)


def _standardise(found: "datasets.Dataset", spec: DatasetSpec, where: str) -> "datasets.Dataset":
    """The two columns that matter under our names and types, whatever the source calls them."""
    import datasets
    import pyarrow.compute
    from datasets.table import table_cast

    columns = found.column_names
    source = next((column for column in spec.input_columns if column in columns), None)
    if source is None or spec.label_column not in columns:
        raise DataError(
            f"{where} has the columns {', '.join(columns)}; needed are {spec.label_column} and one of "
            f"{', '.join(spec.input_columns)}"
        )
    declared = getattr(found.features[spec.label_column], "names", None) or spec.label_names
    ours, theirs = ([re.sub(r"\W", "", str(x).lower()) for x in y] for y in (spec.label_names, declared))
    if len(ours) != len(theirs) or (ours != theirs and sorted(ours) == sorted(theirs)):  # spelling may differ
        raise DataError(f"{where} numbers its labels as {list(declared)}; needed is {list(spec.label_names)}")
    column = spec.encoding.column
    table = found.data.table.select([source, spec.label_column]).rename_columns([column, "label"])
    if not len(table) or table[column].null_count or table["label"].null_count:
        raise DataError(f"{where} has {len(table)} rows, some without input or label; replace the file")
    if not pyarrow.types.is_integer(table["label"].type):
        raise DataError(f"{where} has labels of type {table['label'].type}; needed are integers from 0")
    low, high = pyarrow.compute.min_max(table["label"]).as_py().values()
    if low < 0 or high >= len(ours):
        raise DataError(f"{where} has labels {low} to {high}; needed are 0 to {len(ours) - 1} (-1: hidden)")
    label = datasets.ClassLabel(names=list(spec.label_names))
    features = datasets.Features({column: spec.encoding.feature(), "label": label})
    try:
        return datasets.Dataset(table_cast(table, features.arrow_schema))
    except (pyarrow.ArrowException, TypeError, ValueError) as error:
        raise DataError(f"{where}: column {source} does not hold the expected type ({error})") from error


def has_validation(name: str) -> bool:
    """Whether the validation part of a dataset is embedded as a file of its own."""
    return (EMBEDDED / name / f"{VALIDATION_FILE}.parquet").is_file()


def read_published(name: str, published: str) -> "datasets.Dataset":
    """A published split: the column `image` or `sentence`, and `label`, from the first source that has it."""
    return _standardise(_find(name, DATASETS[name], published), DATASETS[name], f"{name}/{published}")
