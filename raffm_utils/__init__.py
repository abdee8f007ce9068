"""Post-training, resource-aware deployment of federated foundation models."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .budget import Budget
from .errors import InfeasibleBudget, RaffmError
from .space import ElasticSpace, SubmodelConfig
from .supernet import Supernet

if TYPE_CHECKING:
    from .data import load_split
    from .deployment import deploy
    from .evaluation import Evaluation, evaluate, read_sweep, spread_over_size, sweep
    from .export import export_submodel
    from .federated_plots import plot_heterogeneity, plot_rounds, plot_settings, plot_shrinkage
    from .fleet import DeviceClass, plan_fleet
    from .fleet_plots import plot_fleet, plot_fleets
    from .latency import Latency, measure_latency_ms
    from .latency_model import LatencyModel
    from .pictures import plot_latency, plot_widths
    from .plotting import plot_accuracy_vs_parameters, save_figure
    from .prediction import Prediction, predict
    from .predictor import AccuracyPredictor, spread_over_widths
    from .search import best_submodel, best_submodels, largest_submodel, pareto_front
    from .search_plots import plot_pareto, plot_predicted
    from .selection import choose
    from .sentences import SentenceBox, answers_html, plot_answers
    from .submodel_folder import load_submodel
    from .widgets import BudgetExplorer

__all__ = [
    "AccuracyPredictor",
    "Budget",
    "BudgetExplorer",
    "DeviceClass",
    "ElasticSpace",
    "Evaluation",
    "InfeasibleBudget",
    "Latency",
    "LatencyModel",
    "Prediction",
    "RaffmError",
    "SentenceBox",
    "SubmodelConfig",
    "Supernet",
    "answers_html",
    "best_submodel",
    "best_submodels",
    "choose",
    "deploy",
    "evaluate",
    "export_submodel",
    "largest_submodel",
    "load_split",
    "load_submodel",
    "measure_latency_ms",
    "pareto_front",
    "plan_fleet",
    "plot_accuracy_vs_parameters",
    "plot_answers",
    "plot_fleet",
    "plot_fleets",
    "plot_heterogeneity",
    "plot_latency",
    "plot_pareto",
    "plot_predicted",
    "plot_rounds",
    "plot_settings",
    "plot_shrinkage",
    "plot_widths",
    "predict",
    "read_sweep",
    "save_figure",
    "spread_over_size",
    "spread_over_widths",
    "sweep",
]

# what draws, shows or reads data is imported when it is first asked for
_LATER = {
    "data": ("load_split",),
    "deployment": ("deploy",),
    "evaluation": ("Evaluation", "evaluate", "read_sweep", "spread_over_size", "sweep"),
    "export": ("export_submodel",),
    "federated_plots": ("plot_heterogeneity", "plot_rounds", "plot_settings", "plot_shrinkage"),
    "fleet": ("DeviceClass", "plan_fleet"),
    "fleet_plots": ("plot_fleet", "plot_fleets"),
    "latency": ("Latency", "measure_latency_ms"),
    "latency_model": ("LatencyModel",),
    "pictures": ("plot_latency", "plot_widths"),
    "plotting": ("plot_accuracy_vs_parameters", "save_figure"),
    "prediction": ("Prediction", "predict"),
    "sentences": ("SentenceBox", "answers_html", "plot_answers"),
    "predictor": ("AccuracyPredictor", "spread_over_widths"),
    "search": ("best_submodel", "best_submodels", "largest_submodel", "pareto_front"),
    "search_plots": ("plot_pareto", "plot_predicted"),
    "selection": ("choose",),
    "submodel_folder": ("load_submodel",),
    "widgets": ("BudgetExplorer",),
}


def __getattr__(name: str) -> Any:
    for module, names in _LATER.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
