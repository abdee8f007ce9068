"""The recipe of a federated run: all of its choices, and the rules they name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from ..errors import TrainingError
from ..space import METRICS

# number of examples of each label -> how much the client counts
WEIGHTINGS: Mapping[str, Callable[[torch.Tensor], float]] = {
    "clients": lambda counts: 1.0,
    "impurity": lambda counts: float(counts.sum() - counts.square().sum() / counts.sum()),
}
# (sum of changes, weights of the clients that covered an entry, of all clients now, of an average round, the entry)
RULES: Mapping[str, Callable[[torch.Tensor, torch.Tensor, float, float, torch.Tensor], torch.Tensor]] = {
    "coverage": lambda total, count, present, expected, old: total / count,
    "even_noise": lambda total, count, present, expected, old: total / (count * expected).sqrt(),
    "all": lambda total, count, present, expected, old: (total - (present - count) * old) / present,
}
SIZES = ("spread", "log", "cap")


@dataclass(frozen=True)
class Recipe:
    """All choices of a federated run; two runs of one recipe give the same weights, bit for bit.

    Example:
        >>> Recipe(setting="small", rounds=10, dirichlet=0.5).participants
        10
    """

    # Who takes part.
    setting: str = "large"  # the system setting: which devices the clients are, see `space.SYSTEM_SETTINGS`
    clients: int = 100  # all devices of the federation, each with its own part of the training data
    participants: int = 10  # clients drawn in each round
    rounds: int = 90  # in each of them the participants train, and the server averages once
    dirichlet: float | None = None  # concentration of the label skew between clients; None: IID shards

    # What size of network each of them trains.
    submodels: bool = True  # False: every client trains the full network
    full_participant: bool = False  # one client a round trains the full network whatever its device, as published
    # Exactly one participant has a device of the strongest class, all others have weaker ones: a round costs little,
    # and what only large networks have still learns in each.
    one_strong: bool = False
    # What the others train. "spread": the weakest device the smallest network, the rest any size up to what theirs can
    # train, as published; "log": the logarithm of size is uniform over the same range; "cap": as much as theirs can.
    sizes: str = "spread"
    # The cost whose share of the full network's is held against a device's cap. For text "macs": look-up tables
    # are most of the parameters and cost no computation.
    sized_by: str = "parameters"
    # With "spread", sizes are drawn as `uniform ** size_power` of the range: above 1, more of them are small.
    size_power: float = 1.0

    # How a client trains.
    local_epochs: int = 1  # passes of a client over its data in one round
    local_steps: int | None = None  # batches in a local epoch at most, drawn anew every time; None: all its data
    # A smaller network takes more local steps than the full one, as many as cost the same MACs, but at most so many
    # times `local_steps`. Data that then do not suffice are used again, in a new order.
    more_steps: float = 1.0
    batch_size: int = 32  # examples in one step of a client
    learning_rate: float = 3e-5  # of the first round; falls along a cosine over `cosine_rounds` ...
    final_learning_rate_share: float = 0.05  # ... down to this share of it
    cosine_rounds: int = 160  # a run with fewer rounds stops part-way down the cosine
    cooldown_rounds: int = 30  # over this many final rounds the rate also falls linearly to 0
    local_warmup_steps: int = 5  # steps in which the rate rises: a fresh Adam takes its largest steps first
    weight_decay: float = 0.01  # of AdamW
    second_moment: float = 0.999  # how much of Adam's mean square of gradients is kept at every step (its beta 2)
    # Adam's moments travel: the server averages both over the clients that cover an entry, keeps them, and sends them
    # with the weights, so that a client need not learn the size of its steps anew. Without them they start at 0.
    carry_moments: bool = False
    gradient_clip: float = 1.0  # largest norm of the gradient of all weights together
    # A module whose weights have a root mean square below this learns slower in proportion. Adam's steps have one
    # size, which would wipe out matrices that a folded LayerScale has made small (relative steps as in Adafactor,
    # Shazeer & Stern 2018). None: all learn at the same rate.
    full_rate_rms: float | None = None
    horizontal_flip: bool = False  # each training image is mirrored with probability 1/2
    random_shift: int = 0  # each training image is moved by up to so many pixels, both ways; its edge is repeated
    # Share of an image's patches that a client sees, drawn anew for every image (PatchDropout, Liu et al. 2022); in
    # the cooldown it sees all of them. Computing costs fall about in proportion.
    patch_share: float = 1.0
    balance_labels: bool = False  # labels count alike in a client's loss, so that skewed data do not teach the skew
    # Look-up tables (words, positions) stay as they were pre-trained. For text they are half of the parameters, which
    # then need no gradient, no optimizer state and no traffic.
    freeze_tables: bool = False
    # On every batch, smaller networks inside a client's own learn too (sandwich rule, Yu & Huang 2019): the smallest
    # and this many drawn ones, one from the upper half of the logarithm of size and the others from the lower. 0: none
    students: int = 0
    soft_share: float = 0.5  # of a student's loss on the soft answers of the client's network; the rest is on labels
    # How much a student's loss counts beside the client's own. All together easily outweigh it: below 1, the largest
    # networks learn more of what the small ones cannot hold.
    student_weight: float = 1.0
    autocast: bool = True  # bfloat16 where the processor has it; the last digits then differ from other processors

    # How the server puts the updates together.
    # How much a client counts: "clients" all alike; "impurity" by its number of examples times the Gini impurity of
    # their labels, so that a client with little more than one label, which teaches mostly its skew, counts little.
    weighting: str = "clients"
    # What the sum of changes is divided by. "coverage": the weight of the clients that have the entry. "even_noise":
    # the geometric mean of that and the weight of an average round, so that an entry that one client covers is no
    # noisier than one that all cover. "all": the published rule, for comparison: the sum of the weights themselves
    # is divided by all clients, as if those without the entry had sent 0, which shrinks it.
    divide: str = "coverage"
    server_momentum: float = 0.5  # share of the last round's step that is added to the new one
    average_rounds: int = 1  # the result is the mean over this many final rounds, smoother than any one of them
    seed: int = 0  # of all that is random: shards, participants, sizes, order of examples
    # Draws of a round go by its number, counted from here: a second part by the same clients, whose shards go by the
    # seed alone, goes on where the first ended rather than repeat its rounds.
    first_round: int = 0

    def __post_init__(self) -> None:
        whole = ("clients", "participants", "rounds", "local_epochs", "local_steps", "batch_size", "cosine_rounds")
        for name in (*whole, "average_rounds"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise TrainingError(f"{name}={value}: give at least 1")
        if self.sizes not in SIZES:
            raise TrainingError(f"sizes={self.sizes!r}: give one of {', '.join(SIZES)}")
        if not self.more_steps >= 1 or (self.more_steps > 1 and self.local_steps is None):
            raise TrainingError(f"more_steps={self.more_steps}: give a factor of 1 or more, above 1 with local_steps")
        if self.weighting not in WEIGHTINGS:
            raise TrainingError(f"weighting={self.weighting!r}: give one of {', '.join(WEIGHTINGS)}")
        if self.divide not in RULES:
            raise TrainingError(f"divide={self.divide!r}: give one of {', '.join(RULES)}")
        if not 0 < self.patch_share <= 1:
            raise TrainingError(f"patch_share={self.patch_share}: give a share above 0 and up to 1")
        if self.first_round < 0:
            raise TrainingError(f"first_round={self.first_round}: give 0, or the number of rounds that went before")
        if self.random_shift < 0:
            raise TrainingError(f"random_shift={self.random_shift}: give a number of pixels, or 0")
        if self.students < 0:
            raise TrainingError(f"students={self.students}: give the number of networks drawn for every batch, or 0")
        if not 0 < self.second_moment < 1:
            raise TrainingError(f"second_moment={self.second_moment}: give a share between 0 and 1")
        if not 0 <= self.soft_share <= 1:
            raise TrainingError(f"soft_share={self.soft_share}: give a share from 0 to 1")
        if not self.student_weight > 0:
            raise TrainingError(f"student_weight={self.student_weight}: give a positive number; students=0 for none")
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
