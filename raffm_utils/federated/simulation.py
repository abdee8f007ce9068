"""A federation simulated on one machine, resumable after every round."""

import json
import math
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from ..data import Split
from ..errors import TrainingError
from ..evaluation import evaluate
from ..space import SubmodelConfig
from ..supernet import Supernet
from ..writing import explained, held, replacing, write_atomically
from .client import Task, client_weight, local_update
from .recipe import Recipe
from .rounds import partition, plan_round, steps_of
from .server import (
    Asked,
    Moments,
    State,
    Update,
    fault,
    moments_update,
    narrowed_moments,
    present,
    server_update,
)

REMOVED = {"shrink_rounds": 0}  # options that recipes had once, with the value that means: not used
STATE_FILE, EARLIER_FILE, LOG_FILE = "state.safetensors", "earlier.safetensors", "rounds.jsonl"
DAMAGED_FILE = "damaged.safetensors"  # a last state that could not be read, for whoever can save something of it


@dataclass(frozen=True, kw_only=True)
class RoundResult:
    """One round of a run: its clients, their mean loss, and the validation accuracy of both ends of the space.

    Accuracies are None in rounds that were not looked at. `watched` are those of other submodels, by name.
    """

    round: int  # from 1
    learning_rate: float
    clients: int  # whose updates were used
    loss: float
    refused: dict[str, str] = field(default_factory=dict)  # number of a client -> why its update was not used
    full: float | None = None
    smallest: float | None = None
    watched: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A line of the log; `RoundResult(**line)` is its inverse."""
        return {key: value for key, value in asdict(self).items() if value not in (None, {})}


def run(
    supernet: Supernet,
    train: Split,
    validation: Split,
    recipe: Recipe,
    folder: Path,
    *,
    workers: int = 2,
    every: int = 1,
    watched: Mapping[str, SubmodelConfig] | None = None,
) -> list[RoundResult]:
    """Train `supernet` in place and return the result of every round.

    After every round, or once in `every` rounds and after the last, the server's state and the metrics (on
    `validation`, never on test) are written to `folder`; a stopped run resumes from there and reaches the same weights,
    bit for bit. The last two states are kept: if the last is damaged, the run goes on from the one before, and says so.
    `workers` clients are trained side by side, each on one core; the result does not depend on it. Metrics are of both
    ends of the space, and of the `watched` submodels. Raises `TrainingError` if another process is training in
    `folder`, if it holds another run, or if it cannot be written to.

    Example:
        supernet, processor = start(RECIPES["vit-small-fashion-mnist-large-budget"])
        train, validation = (load_split("fashion_mnist", s, processor=processor) for s in ("train", "validation"))
        results = run(supernet, train, validation, Recipe(rounds=10), Path("runs/mine"))
    """
    with held(folder, TrainingError):
        return _run(supernet, train, validation, recipe, folder, workers, every, watched or {})


def _run(
    supernet: Supernet,
    train: Split,
    validation: Split,
    recipe: Recipe,
    folder: Path,
    workers: int,
    every: int,
    watched: Mapping[str, SubmodelConfig],
) -> list[RoundResult]:
    weights = {name: p.data for name, p in supernet.model.named_parameters()}
    momentum = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    average = {name: torch.zeros_like(weight) for name, weight in weights.items() if recipe.average_rounds > 1}
    kept = {"weights": weights, "momentum": momentum, "average": average}
    moments: Moments | None = None
    if recipe.carry_moments:
        kept |= {kind: {n: torch.zeros_like(w) for n, w in weights.items()} for kind in ("first", "second")}
        moments = kept["first"], kept["second"]
    identity = {
        "recipe": asdict(recipe),
        "space": repr(supernet.space),
        "data": train.fingerprint,
        "start": supernet.fingerprint(),  # of the weights, the network's settings and the way of slicing
        "validation": validation.fingerprint,
    }
    results = _resume(folder, identity, kept)
    if len(results) < recipe.rounds:
        _check_room(folder, kept)
    recipe = replace(recipe, autocast=recipe.autocast and _native_bfloat16())
    shards = [train.subset(part) for part in partition(train.labels, recipe.clients, recipe.dirichlet, recipe.seed)]
    # clients tell the server how much they count, not their data
    told = [client_weight(shard, recipe) for shard in shards]
    expected = sum(told) / recipe.clients * recipe.participants  # of an average round
    bar = tqdm(range(len(results), recipe.rounds), initial=len(results), total=recipe.rounds, desc="rounds")
    sizes = {"full": supernet.space.largest(), "smallest": supernet.space.smallest(), **watched}

    def accuracy(config: SubmodelConfig) -> float:
        return evaluate(supernet.extract(config), validation, autocast=recipe.autocast).accuracy

    # one pool for everything: threads of torch that wait for each other lose much time where cores are shared
    with _one_thread_each(workers), ThreadPoolExecutor(workers) as pool:
        for number in bar:
            rate = learning_rate(recipe, number)
            whole = supernet.costs.patches
            patches = None if whole is None else recipe.patches_in(number, whole)

            def client(
                planned: tuple[int, SubmodelConfig],
                number: int = number,
                rate: float = rate,
                patches: int | None = patches,
            ) -> Update | str:
                client, config = planned
                own = supernet.narrowed(config)
                for parameter in own.parameters:
                    if parameter.table and recipe.freeze_tables:
                        own.model.get_parameter(parameter.name).requires_grad_(False)
                names = tuple(p.name for p in present(supernet.parameters, config))
                go_on = narrowed_moments(supernet, moments, config) if moments and number else None
                steps = steps_of(supernet, recipe, config)
                draw = (recipe.seed, recipe.first_round + number, client)
                task = Task(config, names, rate, draw, go_on, steps, patches)
                try:
                    return local_update(own, task, shards[client], recipe)
                except Exception as error:  # a client may fail in any way: the round goes on without it
                    return f"{type(error).__name__}: {error}"

            plan = plan_round(supernet, recipe, number)
            asked = [
                Asked(
                    config,
                    told[client],
                    most_change(recipe, rate, len(shards[client]), steps_of(supernet, recipe, config)),
                    recipe.carry_moments,
                )
                for client, config in plan
            ]
            answers = list(pool.map(client, plan))
            updates, refused = _sound(supernet, [number for number, _ in plan], asked, answers)
            averaging = [pool.submit(server_update, supernet, momentum, updates, recipe, expected)]
            if moments:
                averaging.append(pool.submit(moments_update, supernet, moments, updates))
            for part in averaging:
                part.result()
            averaged = number + 1 - max(0, recipe.rounds - recipe.average_rounds)  # how many rounds the mean is over
            shown = average if averaged > 0 else {}
            for name, mean in shown.items():
                mean.add_((weights[name] - mean) / averaged)
            looked_at = (number + 1) % every == 0 or number + 1 == recipe.rounds
            with _replaced(weights, shown if looked_at else {}):
                found = dict(zip(sizes, pool.map(accuracy, sizes.values()), strict=True)) if looked_at else {}
            loss = sum(u.loss for u in updates) / max(1, len(updates))
            results.append(
                RoundResult(
                    round=number + 1,
                    learning_rate=rate,
                    clients=len(updates),
                    loss=loss,
                    refused=refused,
                    full=found.pop("full", None),
                    smallest=found.pop("smallest", None),
                    watched=found,
                )
            )
            if looked_at:
                _keep_last(folder)
                _save(folder, identity, results, kept)
                shown_rates = {"full": results[-1].full, "smallest": results[-1].smallest, **found, "loss": loss}
                bar.set_postfix({name: f"{rate:.3f}" for name, rate in shown_rates.items()})
    for name, mean in average.items():
        weights[name].copy_(mean)
    return results


LARGEST_STEP = 10.0  # of AdamW, in learning rates: its usual steps are 1, those after rare gradients a few


def most_change(recipe: Recipe, rate: float, examples: int, steps: int | None) -> float:
    """The most that a weight of a client can move in a round in which it takes at most `steps` steps a local epoch."""
    batches = math.ceil(examples / recipe.batch_size) if steps is None else steps
    return LARGEST_STEP * rate * batches * recipe.local_epochs


def _sound(
    supernet: Supernet, clients: Sequence[int], asked: Sequence[Asked], answers: Sequence[Update | str]
) -> tuple[list[Update], dict[str, str]]:
    """The usable updates, and why those of other clients are left out, printed at once."""
    sound, refused = [], {}
    for client, each, answer in zip(clients, asked, answers, strict=True):
        if wrong := fault(answer, each, supernet):
            refused[str(client)] = wrong
            tqdm.write(f"client {client} is left out of this round: {wrong}")
        elif isinstance(answer, Update):
            sound.append(answer)
    return sound, refused


def learning_rate(recipe: Recipe, number: int) -> float:
    """The rate of one round: a cosine, and a linear cooldown at the end of the run."""
    least, progress = recipe.final_learning_rate_share, min(1.0, number / recipe.cosine_rounds)
    cosine = least + (1 - least) * 0.5 * (1 + math.cos(math.pi * progress))
    cooldown = min(1.0, (recipe.rounds - number) / recipe.cooldown_rounds) if recipe.cooldown_rounds else 1.0
    return recipe.learning_rate * cosine * cooldown


@contextmanager
def _replaced(weights: State, others: State) -> Iterator[None]:
    """Temporarily replace some weights."""
    own = {name: weights[name].clone() for name in others}
    for name, other in others.items():
        weights[name].copy_(other)
    try:
        yield
    finally:
        for name, weight in own.items():
            weights[name].copy_(weight)


def _native_bfloat16() -> bool:
    """Whether the processor supports bfloat16: emulated, training would take ten times as long."""
    found: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(found.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))


@contextmanager
def _one_thread_each(workers: int) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _save(folder: Path, identity: dict[str, Any], results: list[RoundResult], kept: dict[str, State]) -> None:
    # weights and results in one file, swapped in whole: a kill between two files could tear them apart
    tensors = {f"{kind}.{name}": tensor for kind, state in kept.items() for name, tensor in state.items()}
    metadata = {
        "identity": json.dumps(identity),
        "rows": json.dumps([result.to_json() for result in results]),
        "checksum": _checksum(tensors),
    }
    with explained(folder, TrainingError):
        with replacing(folder / STATE_FILE) as part:
            save_file(tensors, part, metadata=metadata)
        _write_log(folder, results)


def _check_room(folder: Path, kept: dict[str, State]) -> None:
    """Raise `TrainingError`, before anything is trained, if the disk has no room for another state."""
    needed = sum(tensor.nbytes for state in kept.values() for tensor in state.values())
    if (free := shutil.disk_usage(folder).free) < needed:
        raise TrainingError(
            f"{folder}: a state takes {needed / 1e6:,.1f} MB, and the last two are kept, but the disk has "
            f"{free / 1e6:,.1f} MB left: make room, or give another folder"
        )


def _keep_last(folder: Path) -> None:
    """Keep what was saved last by another name too, for the case that what is saved next is damaged one day."""
    path = folder / STATE_FILE
    if path.exists():
        with explained(folder, TrainingError), replacing(folder / EARLIER_FILE) as part:
            try:
                part.hardlink_to(path)
            except OSError:  # some file systems have no second names
                path.rename(part)


def _checksum(tensors: State) -> str:
    contents = {name: tensor.detach().cpu().contiguous().view(-1).view(torch.uint8) for name, tensor in tensors.items()}
    return " ".join(f"{name} {zlib.crc32(contents[name].numpy().data)}" for name in sorted(contents))


def _write_log(folder: Path, results: list[RoundResult]) -> None:
    write_atomically(folder / LOG_FILE, "".join(json.dumps(result.to_json()) + "\n" for result in results))


def _flat(identity: dict[str, Any]) -> dict[str, Any]:
    return {**identity["recipe"], **{key: value for key, value in identity.items() if key != "recipe"}}


def _resume(folder: Path, identity: dict[str, Any], kept: dict[str, State]) -> list[RoundResult]:
    """The results of the rounds that are done, whose state goes into `kept`; if the last is damaged, the one before."""
    shapes = {f"{kind}.{name}": tensor.shape for kind, state in kept.items() for name, tensor in state.items()}
    last, earlier = folder / STATE_FILE, folder / EARLIER_FILE
    try:
        found = _load(last, identity, shapes)
        fault = "" if found or not earlier.exists() else f"{last} is missing"
    except _Unusable as error:
        found, fault = None, str(error)
    if fault:
        try:
            found = _load(earlier, identity, shapes)
        except _Unusable as error:
            fault = f"{fault}; {error}"
        if found is None:
            raise TrainingError(f"{fault}: restore it from a copy, or remove it to start anew")
        tqdm.write(f"{fault}: going on from {earlier}, after round {len(found[1])}")
    if found is None:
        return []
    tensors, results = found
    for key, tensor in tensors.items():
        kind, _, name = key.partition(".")
        kept[kind][name].copy_(tensor)
    with explained(folder, TrainingError):
        if fault and last.exists():
            last.replace(folder / DAMAGED_FILE)  # lest it take the place of the earlier one
        _write_log(folder, results)  # a kill may have come between the state and its log
    return results


class _Unusable(Exception):
    """A state that is damaged, or cannot be read."""


def _load(
    path: Path, identity: dict[str, Any], shapes: Mapping[str, torch.Size]
) -> tuple[State, list[RoundResult]] | None:
    """A stored state and its results, None if there is none; raises `TrainingError` if they belong to another run."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        stored, rows = _flat(json.loads(metadata["identity"])), json.loads(metadata["rows"])
        results = [RoundResult(**row) for row in rows]
    except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
        raise _Unusable(f"{path} cannot be used ({error})") from error
    given = _flat(identity)
    # a run from before an option existed was trained without it; one with an option that is gone may have it unused
    stored = {**asdict(Recipe()), **{key: value for key, value in stored.items() if REMOVED.get(key, ...) != value}}
    # nor did runs always say what they started from, and what they were watched on
    stored = {**{key: given[key] for key in ("start", "validation")}, **stored}
    if stored != given:
        differ = [key for key in stored | given if stored.get(key, "") != given.get(key, "")]
        raise TrainingError(f"{path} holds a run with another {', '.join(differ)}: give a new folder, or remove it")
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise _Unusable(f"{path} cannot be used ({error})") from error
    if {key: tensor.shape for key, tensor in tensors.items()} != shapes:
        raise TrainingError(f"{path} belongs to a run of another network: give a new folder, or remove it")
    if metadata.get("checksum", found := _checksum(tensors)) != found:  # runs did not always have one
        raise _Unusable(f"{path} cannot be used (its content has changed since it was written)")
    return tensors, results
