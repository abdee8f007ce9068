"""Smaller networks that learn inside a client's own: which they are, what they are taught, and what that costs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make_inputs, make_supernet
from helpers.federated import RECIPE, learnable_split, make_even_supernet, one_thread, task_of  # noqa: F401
from torch.func import functional_call
from torch.nn.functional import cross_entropy, kl_div

from raffm_utils.errors import TrainingError
from raffm_utils.evaluation import evaluate
from raffm_utils.federated import Recipe, count_round, local_update
from raffm_utils.federated.students import SLOTS, Students
from raffm_utils.space import SubmodelConfig
from raffm_utils.supernet import CONTIGUOUS, PER_HEAD, Supernet

OWN = SubmodelConfig(48, (48, 32), (64, 48))


def students_of(
    own: Supernet, number: int = 3, soft_share: float = 0.5, seed: int = 0, weight: float = 1.0
) -> Students:
    return Students(own, number, soft_share, np.random.default_rng(seed), weight)


def only(students: Students, config: SubmodelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(students, "drawn", lambda: [config])


def test_students_are_the_smallest_one_of_the_upper_half_and_others_of_the_lower():
    own = make_even_supernet().narrowed(OWN)
    students = students_of(own)
    batches = [students.drawn() for _ in range(300)]
    least, most = own.space.reach("parameters")
    middle = (least * most) ** 0.5
    sizes = np.array([[own.cost(config).parameters for config in drawn] for drawn in batches])
    assert sizes.shape == (300, 4)
    assert all(config in own.space for drawn in batches for config in drawn)
    assert {drawn[-1] for drawn in batches} == {own.space.smallest()}
    ratio = (most / least) ** (1 / (2 * SLOTS))
    assert sizes[:, 0].min() > middle / ratio, "of a slot without submodels, the nearest below"
    assert sizes[:, 1:3].max() < middle * ratio
    counts = np.histogram(np.log(sizes[:, 1:3]), bins=4, range=(np.log(least), np.log(middle)))[0]
    assert counts.min() > 80, "evenly over the logarithm"
    assert {drawn[0].hidden for drawn in batches} == {48, 36}, "24 does not reach that far"
    assert {drawn[1].hidden for drawn in batches} == {36, 24}, "48 does not go that low"
    again = students_of(own)
    assert [again.drawn() for _ in range(300)] == batches


def test_a_client_with_the_smallest_network_has_no_students():
    supernet = make_even_supernet()
    assert students_of(supernet.narrowed(supernet.space.smallest())).drawn() == []


@pytest.mark.parametrize("slicing", [PER_HEAD, CONTIGUOUS])
@pytest.mark.parametrize("kind", ["vit", "bert", "distilbert"])
@pytest.mark.parametrize("gaps", [False, True])
def test_gradients_are_those_of_the_loss_by_the_shared_weights(kind: str, slicing: str, gaps: bool, monkeypatch):
    """Against autograd through the slices themselves; also where the client and its student leave blocks out."""
    supernet = make_supernet(kind, slicing=slicing)
    largest, smallest = supernet.space.largest(), supernet.space.smallest()
    if gaps:
        largest = replace(largest, attention=(*largest.attention[:-1], 0), ffn=(*largest.ffn[:-1], 0))
        smallest = replace(smallest, attention=(0, *smallest.attention[1:-1], 0), ffn=(*smallest.ffn[:-1], 0))
    own = supernet.narrowed(largest)
    layers = len(own.full.attention)  # a layer without both blocks is gone where norms stand before them
    config = SubmodelConfig(smallest.hidden, smallest.attention[:layers], smallest.ffn[:layers])
    inputs, labels = make_inputs(kind, batch=2), torch.tensor([1, 0])
    teacher = own.model(**inputs).logits
    cross_entropy(teacher, labels).backward()
    hard_alone = [p.grad.clone() for p in own.model.parameters()]
    students = students_of(own, soft_share=0.75, weight=0.4)
    only(students, config, monkeypatch)
    students.learn(inputs, labels, teacher.detach(), None, False, None, torch.Generator())
    found = [p.grad - before for p, before in zip(own.model.parameters(), hard_alone, strict=True)]

    own.model.zero_grad()
    student = own.extract(config)
    names = iter(name for name, _ in student.named_parameters())
    parts = {}
    for p, whole in zip(own.parameters, own.model.parameters(), strict=True):
        widths = config.widths(p.layer)
        if not p.present(widths):
            continue
        parts[next(names)] = p.part(whole, widths, own.slicing_heads).reshape(p.narrowed_shape(widths))
    logits = functional_call(student, parts, kwargs=inputs).logits
    soft = kl_div(logits.log_softmax(1), teacher.detach().softmax(1), reduction="batchmean")
    (0.4 * (0.25 * cross_entropy(logits, labels) + 0.75 * soft)).backward()
    for p, whole, gradient in zip(own.parameters, own.model.parameters(), found, strict=True):
        expected = torch.zeros_like(whole) if whole.grad is None else whole.grad
        assert torch.allclose(expected, gradient, atol=1e-5), p.name


def test_students_see_the_patches_that_their_teacher_saw(monkeypatch):
    """Whoever is asked for its own answers to the same patches has nothing to learn; on other patches it has."""
    learn, norms = Students.learn, {}
    monkeypatch.setattr(Students, "drawn", lambda self: [self.own.full])
    for same in (True, False):
        norms[same] = []

        def spied(self, inputs, labels, answers, balance, autocast, patches, generator, same=same):
            whole = {p: p.grad.clone() for p in self.own.model.parameters()}
            other = generator if same else torch.Generator().manual_seed(77)
            learn(self, inputs, labels, answers, balance, autocast, patches, other)
            norms[same].append(sum(float((p.grad - grad).norm()) for p, grad in whole.items()))

        supernet = make_even_supernet()
        task = task_of(supernet, supernet.full, 1e-3, (1,), patches=2)
        monkeypatch.setattr(Students, "learn", spied)
        local_update(
            supernet.narrowed(supernet.full), task, learnable_split(48, 1), replace(RECIPE, students=1, soft_share=1.0)
        )
    assert len(norms[True]) == 3
    assert max(norms[True]) < 1e-5 < 1e-3 < min(norms[False])


def test_students_learn_and_their_client_too():
    data, losses = learnable_split(160, 1), {}
    for number in (0, 3):
        supernet = make_even_supernet()
        own = supernet.narrowed(OWN)
        recipe = replace(RECIPE, students=number)
        local_update(own, task_of(supernet, OWN, 3e-3, (0, 1, 2)), data, recipe)
        losses[number] = [evaluate(own.extract(c), data).loss for c in (own.space.largest(), own.space.smallest())]
    assert losses[3][1] < 0.8 * losses[0][1], "the smallest is better for being taught"
    assert losses[3][0] < evaluate(make_even_supernet().extract(OWN), data).loss


def test_the_work_of_students_is_counted_as_it_is_on_average():
    supernet = make_supernet(slicing=PER_HEAD, num_hidden_layers=4, space={
        "residual_hidden_space": list(range(48, 11, -4)),
        "atten_out_space": list(range(48, 7, -4)),
        "inter_hidden_space": list(range(64, 7, -4)),
    })  # fmt: skip
    recipe = replace(RECIPE, students=3)
    with_students, without = (count_round(supernet, r, 0, [20] * 8) for r in (recipe, replace(recipe, students=0)))
    own = supernet.narrowed(supernet.space.largest())
    students = students_of(own)
    forward = [sum(own.cost(config).macs for config in students.drawn()) for _ in range(300)]
    assert with_students[0].macs - without[0].macs == pytest.approx(3 * 20 * np.mean(forward), rel=0.1)
    assert with_students[-1].macs == without[-1].macs, "the smallest has none"
    assert [cost.bytes_up for cost in with_students] == [cost.bytes_up for cost in without]


@pytest.mark.parametrize(
    "wrong", [{"students": -1}, {"soft_share": 1.5}, {"soft_share": -0.1}, {"student_weight": 0.0}]
)
def test_impossible_students_are_refused(wrong: dict[str, float]):
    (name,) = wrong
    with pytest.raises(TrainingError, match=name):
        Recipe(**wrong)
