"""Training a supernet by federated learning: recipe, rounds, client, server, simulation, named checkpoints.

Starts from a foundation model (`foundations`) whose axes are put in order first (`ordering`).
"""

from .classifier import calibrate_classifier, fit_classifier
from .client import Task, fit, local_update, make_adam, rate_share
from .images import fewer_patches, shifted
from .influence import block_influence, least_influential, with_zero
from .named_checkpoints import RECIPES, Named, align, start, train
from .ordering import CONSTANT, concentrate, keep_ffn_means, magnitude_scores
from .recipe import WEIGHTINGS, Recipe
from .rounds import count_round, count_run, device_caps, idle_rounds, partition, plan_round
from .server import Update, aggregate, server_update
from .simulation import RoundResult, run
