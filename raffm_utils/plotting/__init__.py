"""Figures: pure functions that draw on a matplotlib Axes, and one that saves them.

No wing below imports matplotlib.
"""

from .accuracy import plot_accuracy_vs_parameters, plot_intervals
from .differences import plot_differences
from .federated import plot_heterogeneity, plot_rounds, plot_settings, plot_shrinkage
from .search import class_colours, plot_fleet, plot_fleets, plot_latency, plot_pareto, plot_predicted
from .style import (
    BLUE,
    FIGURES,
    GREEN,
    ORANGE,
    PURPLE,
    VERMILION,
    approximately,
    is_wide,
    label_axes,
    logarithmic,
    new_axes,
    save_figure,
)
from .submodels import plot_widths, width_bars, widths_svg
