"""Examples: where named datasets come from, their splits, and the tensors a model is fed with.

Knows no model, only the processor that belongs to one.
"""

from .encoding import MAX_TOKENS, Pixels, Tokens, per_channel, token_ids, token_limit, whole_signs
from .sources import DATASETS, read_idx
from .splits import SPLIT_SEED, Split, load_split, split_indices
