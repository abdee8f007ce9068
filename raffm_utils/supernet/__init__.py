"""Weights that hold every submodel: reading and writing checkpoints safely, cutting submodels out of them.

`spec` reads `elastic_space.json`, `weights` weight files, `processors` what prepares examples; `checkpoints` reads and
writes folders, `supernet` extracts and reorders with what `rebuild` makes.
"""

from .checkpoints import BUNDLED_FOLDER, bundled, load_encoder, resolve
from .processors import load_processor
from .quiet import quiet
from .spec import CONTIGUOUS, PER_HEAD, ElasticSpec
from .supernet import Group, Supernet, group, read_widths
from .weights import WEIGHT_FILES, read_weights, weights_path
