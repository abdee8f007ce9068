"""The interactive panels of the notebooks.

`state` holds all the logic and needs no widget; `view` and `explorer` only show it.
"""

from .explorer import LOG_FROM, STEPS, BudgetExplorer, LimitSlider
from .sentences import SentenceBox, answers_html, plot_answers
from .state import BEST, LARGEST, RANDOM, ExplorerState, code_of
