"""Redraws the figures of this repository: stored sweeps, with freshly evaluated submodels on top."""

import json
from typing import TYPE_CHECKING

import numpy as np

from . import evaluation, plotting, search
from .data import DATASETS, Tokens
from .errors import CheckpointError, DataError
from .evaluation import ENDS, SweepRow, ends, read_sweep
from .files import REPOSITORY, RUNS_FOLDER
from .space import SIZE_TOKENS, spread_over_size, spread_over_widths
from .supernet import Supernet, checkpoints

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# Names and titles of the figures that have a counterpart in the paper.
PUBLISHED = {
    "vit-small-fashion-mnist-large-budget": ("vit_performance_vs_params", "ViT Scaled Model Performance"),
    "vit-small-cifar10-large-budget": ("vit_cifar10_large_performance_vs_params", "Scaled ViT on CIFAR-10, Large"),
    "vit-small-cifar10-small-budget": ("vit_cifar10_small_performance_vs_params", "Scaled ViT on CIFAR-10, Small"),
    "bert-mini-sst2-small-budget": ("bert_sst2_performance_vs_params", "Scaled BERT on SST-2"),
    "bert-mini-movie-reviews-small-budget": (
        "bert_movie_reviews_performance_vs_params",
        "Scaled BERT on movie_reviews",
    ),
}
# Checkpoints of one dataset trained under different system settings, and the figure that lays them over each other.
SETTINGS = {"Large": "vit-small-cifar10-large-budget", "Small": "vit-small-cifar10-small-budget"}
TURNS = 5  # of a validation sweep, in which promising submodels are measured
FRONT = "front"  # the folder in `figures/data/` of what `sweep_front` measures
SETTINGS_STEM, HETEROGENEITY_STEM = "vit_cifar10_settings", "heterogeneity"
HETEROGENEITY = REPOSITORY / "benchmarks" / "heterogeneity.json"


def redraw(submodels: int, examples: int | None, seed: int | None) -> None:
    """Evaluate a fresh sample of every bundled checkpoint and draw it over its stored sweep.

    Without a number of examples, those of the stored sweep are taken, so that all points can be compared. Where the
    checkpoint or its data are not available, the stored sweep is drawn alone. Raises `CheckpointError`
    when no checkpoint is bundled.
    """
    seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
    if not (names := checkpoints.bundled()):
        folder = checkpoints.BUNDLED_FOLDER
        raise CheckpointError(f"no checkpoint in {folder}: fetch one, or make one with make train NAME=...")
    drawn = []
    for name in names:
        try:
            _with_fresh_sample(name, submodels, examples, seed)
            drawn.append(name)
        except DataError as error:  # a checkpoint may be here, but not its data
            print(f"{name}: no fresh sample: {error}")
    for path in sorted((plotting.FIGURES / "data").glob("*.jsonl")):
        if path.stem not in drawn and (rows := _rows(path.stem)):
            print(
                f"{path.stem}: drawn from its {len(rows)} stored rows alone (make train NAME={path.stem} makes weights)"
            )
            _stored(path.stem, rows)
    if all(_rows(name) for name in SETTINGS.values()):
        _save(plotting.plot_settings(*stored_settings()), SETTINGS_STEM)
    if HETEROGENEITY.exists():
        results = json.loads(HETEROGENEITY.read_text(encoding="utf-8"))
        _save(plotting.plot_heterogeneity(results)[0], HETEROGENEITY_STEM)


def stored_settings() -> tuple[dict[str, list[SweepRow]], dict[str, list[SweepRow]]]:
    """The sweeps of one dataset under several system settings, and the ends of each; see `plot_settings`."""
    sweeps, ends = ({setting: _rows(name, part) for setting, name in SETTINGS.items()} for part in ("", ENDS))
    return sweeps, ends


def _rows(name: str, part: str = "") -> list[SweepRow]:
    path = plotting.FIGURES / "data" / part / f"{name}.jsonl"
    return [row for row in read_sweep(path) if row.split == "test"] if path.exists() else []


def _with_fresh_sample(name: str, submodels: int, examples: int | None, seed: int) -> None:
    from .data import load_split

    supernet = Supernet.from_pretrained(name, tokens=SIZE_TOKENS)
    space, metric = supernet.space, supernet.family.size_metric
    examples = examples or _examples(supernet)
    print(f"{name}: {space.count():,} submodels in the space")
    data = load_split(supernet.spec.dataset, "test", limit=examples, processor=supernet.processor)
    configs = spread_over_size(space, submodels, np.random.default_rng(seed), metric)
    print(f"evaluating {submodels} of them, drawn with --seed {seed}, on {len(data):,} test examples each")
    path = RUNS_FOLDER / f"live-{name}-{examples}-{seed}.jsonl"
    live = evaluation.sweep(supernet, configs, data, path, seed=seed)
    path, fingerprint = plotting.FIGURES / "data" / f"{name}.jsonl", supernet.fingerprint()
    rows = read_sweep(path)
    stored = [row for row in rows if row.fingerprint == fingerprint]
    if len(stored) < len(rows):
        print(f"{path}: {len(rows) - len(stored)} rows belong to other weights and are left out of the figure")
    # those measured on the whole split, where there are any, as when a sweep is drawn by itself
    whole = [row for row in _rows(name, ENDS) if row.fingerprint == fingerprint]
    measured = {row.config: row for row in [*stored, *whole]}
    full, smallest = measured.get(space.largest()), measured.get(space.smallest())
    front = [row for row in _rows(name, FRONT) if row.fingerprint == fingerprint]
    title = f"{supernet.family.label} Scaled Model Performance"
    _draw(name, title, stored, metric, live=live, front=front, full=full, smallest=smallest, count=space.count())


def _examples(supernet: Supernet) -> int | None:
    """How many test examples the stored sweep is on; None: nothing is stored."""
    fingerprint = supernet.fingerprint()
    return next((row.examples for row in _rows(supernet.name) if row.fingerprint == fingerprint), None)


def _stored(name: str, rows: list[SweepRow]) -> None:
    # what a checkpoint's family would say: text models are sized without their embeddings
    data = DATASETS.get(rows[0].dataset)
    metric = "encoder_parameters" if data is not None and data.encoding is Tokens else "parameters"
    by_size = sorted(_rows(name, ENDS) or rows, key=lambda row: row.parameters)
    _draw(name, f"{name} Scaled Model Performance", rows, metric, full=by_size[-1], smallest=by_size[0])


def _draw(
    name: str,
    title: str,
    rows: list[SweepRow],
    metric: str,
    *,
    live: list[SweepRow] | None = None,
    front: list[SweepRow] | None = None,
    full: SweepRow | None,
    smallest: SweepRow | None,
    count: int | None = None,
) -> None:
    stem, title = PUBLISHED.get(name, (f"{name}_performance_vs_params", title))
    ax = plotting.plot_accuracy_vs_parameters(
        rows,
        title=title,
        metric=metric,
        live=live or (),
        front=front or (),
        full=full,
        smallest=smallest,
        count=count,
    )
    _save(ax, stem)


def _save(ax: "Axes", stem: str) -> None:
    from matplotlib import pyplot

    figure = ax.get_figure(root=True)
    assert figure is not None
    for path in plotting.save_figure(figure, stem, plotting.FIGURES):
        print(f"wrote {path}")
    pyplot.close(figure)


def sweep_checkpoint(name: str, submodels: int | None, examples: int | None, split: str, seed: int = 0) -> None:
    """Evaluate `submodels` submodels and both ends of the space, and store the rows in `figures/data/`.

    Without a number, only the full network, one of half its size and the smallest are evaluated. On test, submodels
    are spread evenly over size, as in the figures, and measured in random order, so that an interrupted sweep has
    some of every size. On validation three of four are spread over all widths, which teaches a predictor most; then,
    in `TURNS` turns, a quarter as many are measured that are promising by all rows before, as the best of all
    submodels are unlike the others. The same command comes to the same submodels, also where it goes on.
    """
    from .data import load_split
    from .evaluation import ENDS, sweep
    from .plotting import FIGURES
    from .supernet import Supernet

    supernet = Supernet.from_pretrained(name, tokens=SIZE_TOKENS)
    space = supernet.space
    data = load_split(supernet.spec.dataset, split, limit=examples, processor=supernet.processor)
    rng, folder = np.random.default_rng(seed), FIGURES / "data"
    spread = [space.largest(), space.smallest()]
    if submodels is None:
        spread, folder = list(ends(supernet).values()), folder / ENDS
    else:
        by_size = submodels if split == "test" else submodels // 4
        if by_size < submodels:
            spread += spread_over_widths(space, submodels - by_size, rng)
        if by_size:
            drawn = spread_over_size(space, by_size, rng, supernet.family.size_metric)
            spread += [drawn[place] for place in rng.permutation(by_size)]
    path = folder / f"{supernet.name}{'' if split == 'test' else f'-{split}'}.jsonl"
    rows = sweep(supernet, spread, data, path, seed=seed)
    if submodels is None:
        _print_sizes(supernet, rows)
    elif split == "validation" and len(rows) >= search.MIN_ROWS:
        for _ in range(TURNS):
            predictor = search.AccuracyPredictor.fit(rows, space, seed=seed)
            number = submodels // (4 * TURNS)
            spread += search.promising_submodels(space, predictor, number, rng, supernet.family.size_metric)
            rows = sweep(supernet, spread, data, path, seed=seed)


def sweep_front(name: str, sizes: int, examples: int | None, seed: int = 0) -> None:
    """Choose submodels by the stored sweep on validation, at up to `sizes` sizes, and measure them on test.

    They are those of `search.pareto_front`. Rows go to `figures/data/front/`: those on the examples of the stored
    sweep, the default, to the file that figures are drawn from, others to one with their number in its name.
    """
    from .data import load_split

    supernet = Supernet.from_pretrained(name, tokens=SIZE_TOKENS)
    space, metric = supernet.space, supernet.family.size_metric
    rows = read_sweep(plotting.FIGURES / "data" / f"{supernet.name}-validation.jsonl")
    own = [row for row in rows if row.fingerprint == supernet.fingerprint()]
    predictor = search.AccuracyPredictor.fit(own, space, seed=seed)
    chosen = [point.config for point in search.pareto_front(space, predictor, metric, sizes)]
    stored = _examples(supernet)
    data = load_split(supernet.spec.dataset, "test", limit=examples or stored, processor=supernet.processor)
    other = f"-{len(data)}" if stored and len(data) != stored else ""
    path = plotting.FIGURES / "data" / FRONT / f"{supernet.name}{other}.jsonl"
    _print_sizes(supernet, evaluation.sweep(supernet, chosen, data, path, seed=seed))


def _print_sizes(supernet: Supernet, rows: list[SweepRow]) -> None:
    for row in rows:
        size = f"{getattr(row, supernet.family.size_metric) / 1e6:.2f} M parameters"
        print(f"{size}: {row:.2%} of {row.examples:,} {row.split} examples")
