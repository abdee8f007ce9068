"""How good and how fast a submodel is: accuracy, resumable sweeps, single sentences, latency.

`crosscheck` measures a running model to check the closed forms of `raffm_utils.space`.
"""

from .accuracy import Evaluation, ends, evaluate, sweep
from .answers import check_colours, class_names, in_eval_mode, labels_of, logits_in, logits_of
from .crosscheck import Positional, count_macs_fvcore, count_macs_torch, measure_peak_activation_bytes
from .example_inputs import example_inputs
from .interval import Interval
from .latency import LatencyModel, measure_latency_ms, processor_name
from .paired import Difference, compare, pack, right_answers
from .sentences import Answer, predict
from .sweep_file import ENDS, SweepRow, read_sweep
