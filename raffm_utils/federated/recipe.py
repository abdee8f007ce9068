"""Federated training of a supernet: clients of very different size train submodels of one network.

The recipe of a run, what a client sends back, and how a server puts it together; `client.py` is the other end.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from ..errors import TrainingError
from ..space import METRICS

# number of examples of each label -> how much the client counts
WEIGHTINGS: Mapping[str, Callable[[torch.Tensor], float]] = {
    "clients": lambda counts: 1.0,
    "examples": lambda counts: float(counts.sum()),
    "impurity": lambda counts: float(counts.sum() - counts.square().sum() / counts.sum()),
}
# (sum of changes, weights of the clients that covered an entry, of all clients now, of an average round, the entry)
RULES: Mapping[str, Callable[[torch.Tensor, torch.Tensor, float, float, torch.Tensor], torch.Tensor]] = {
    "coverage": lambda total, count, present, expected, old: total / count,
    "even_noise": lambda total, count, present, expected, old: total / (count * expected).sqrt(),
    "all": lambda total, count, present, expected, old: (total - (present - count) * old) / present,
}


@dataclass(frozen=True)
class Recipe:
    """All choices of a federated run; two runs of one recipe give the same weights, bit for bit.

    - `setting`: the system setting, see `participation`. With `full_participant`, one client a round trains the whole
      network whatever its device, as published; with `submodels` off all do.
    - `sized_by`: the cost whose share of the full network's is held against a device's cap: for text "macs", since
      look-up tables weigh most and cost nothing.
    - `shrink_rounds`: in so many rounds the smallest width drawn falls from the full network to the smallest submodel;
      devices that cannot train networks of the present size wait.
    - `size_power`: sizes other than the two ends are drawn evenly between the smallest and what a device can hold (1);
      above 1 the even number is raised to it, so that more of them are small.
    - `dirichlet`: concentration of the label skew between clients, None for IID shards.
    - `local_steps`: in each local epoch a client trains on at most so many batches of its data, drawn anew every time.
    - `learning_rate`: follows a cosine down to `final_learning_rate_share` over `cosine_rounds`, and in the last
      `cooldown_rounds` of the run also falls linearly to 0. The first `local_warmup_steps` of every local training rise
      to it: a fresh Adam takes its largest steps first.
    - `full_rate_rms`: a module whose weights have a root mean square below it learns slower in proportion: Adam takes
      steps of one size, which would wipe out matrices that a folded LayerScale has made small (relative steps, as in
      Adafactor, Shazeer & Stern 2018).
    - `patch_share`: clients see that share of an image's patches, drawn anew for every image (PatchDropout, Liu et al.
      2022), and all of them in the cooldown: about as much less to compute.
    - `weighting`: how much a client counts in the average: "clients" all alike, "examples" by how many it has,
      "impurity" by these times the Gini impurity of its labels, so that a client with hardly more than one label, which
      can teach little but its skew, counts little.
    - `divide`: what the sum of changes is divided by: "coverage" the weight of the clients that have the entry;
      "even_noise" the geometric mean of that and the weight of an average round, so that an entry that one client
      covers is no noisier than one that all cover. "all" is the published rule, for comparison: the sum of the weights
      themselves is divided by all clients, as if those without the entry had sent 0, which shrinks it.
    - `balance_labels`: the labels that a client has count alike in its loss, however many examples each has, so that
      skewed labels do not teach the network the skew.
    - `freeze_tables`: look-up tables (words, positions) stay as they were pre-trained: for text that is half of the
      parameters, with no gradient, no optimizer state and no traffic.
    - `average_rounds`: the network that a run ends with is the mean over so many last rounds, which is calmer than any
      one of them.
    - `autocast`: computes in bfloat16 where the processor has it; there the last digits differ from a processor
      without.
    """

    setting: str = "large"
    clients: int = 100
    participants: int = 10
    rounds: int = 90
    local_epochs: int = 1
    local_steps: int | None = None
    batch_size: int = 32
    learning_rate: float = 3e-5
    final_learning_rate_share: float = 0.05
    cosine_rounds: int = 160
    cooldown_rounds: int = 30
    local_warmup_steps: int = 5
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    horizontal_flip: bool = False
    dirichlet: float | None = None
    shrink_rounds: int = 0
    full_participant: bool = False
    size_power: float = 1.0
    submodels: bool = True
    sized_by: str = "parameters"
    server_momentum: float = 0.5
    weighting: str = "clients"
    divide: str = "coverage"
    freeze_tables: bool = False
    full_rate_rms: float | None = None
    patch_share: float = 1.0
    balance_labels: bool = False
    average_rounds: int = 1
    autocast: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        whole = ("clients", "participants", "rounds", "local_epochs", "local_steps", "batch_size", "cosine_rounds")
        for name in (*whole, "average_rounds"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise TrainingError(f"{name}={value}: give at least 1")
        if self.weighting not in WEIGHTINGS:
            raise TrainingError(f"weighting={self.weighting!r}: give one of {', '.join(WEIGHTINGS)}")
        if self.divide not in RULES:
            raise TrainingError(f"divide={self.divide!r}: give one of {', '.join(RULES)}")
        if not 0 < self.patch_share <= 1:
            raise TrainingError(f"patch_share={self.patch_share}: give a share above 0 and up to 1")
        if not self.size_power > 0:
            raise TrainingError(f"size_power={self.size_power}: give a positive number")
        if self.full_rate_rms is not None and not self.full_rate_rms > 0:
            raise TrainingError(f"full_rate_rms={self.full_rate_rms}: give a positive number, or None")
        if self.sized_by not in METRICS:
            raise TrainingError(f"sized_by={self.sized_by!r}: give one of {', '.join(METRICS)}")

    def patches_in(self, number: int, patches: int) -> int | None:
        """How many of an image's patches a client sees in a round (from 0); None: all."""
        if self.patch_share == 1 or number >= self.rounds - self.cooldown_rounds:
            return None
        return max(1, round(self.patch_share * patches))
