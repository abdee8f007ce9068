"""The interactive panels of the notebooks.

`state` holds all the logic, with `metrics` and `policies`, and needs no widget; the rest only shows it.
"""

from .code import code_of
from .explorer import BudgetExplorer
from .limits import LOG_FROM, STEPS, LimitSlider
from .policies import BEST, LARGEST, RANDOM
from .sentences import SentenceBox, answers_html, plot_answers
from .state import ExplorerState
