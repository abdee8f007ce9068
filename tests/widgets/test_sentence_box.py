"""What several networks say of sentences: table, picture and box tell what `predict` tells."""

from pathlib import Path

import pytest
from conftest import write_text_checkpoint

from raffm_utils import Supernet, predict
from raffm_utils.errors import DataError
from raffm_utils.widgets import SentenceBox, answers_html, plot_answers

SENTENCES = ["a good film .", "bad", "costs $ 5 and <b> film"]


@pytest.fixture
def supernet(tmp_path: Path) -> Supernet:
    return Supernet.from_pretrained(write_text_checkpoint(tmp_path / "tiny", "bert"))


@pytest.fixture
def models(supernet):
    return {"full": supernet.model, "small": supernet.extract(supernet.space.smallest())}


@pytest.fixture
def answers(supernet, models):
    return {name: predict(model, supernet.processor, SENTENCES) for name, model in models.items()}


def test_table_holds_every_answer_and_marks_the_wrong_ones(answers):
    truth = [one.label for one in answers["full"]]
    truth[1] = next(label for label in answers["full"][1].probabilities if label != truth[1])
    table = answers_html(answers, truth)
    assert table.count("<tr>") == 1 + len(SENTENCES)
    assert "&lt;b&gt;" in table
    assert "<b>" not in table
    wrong = sum(one.label != label for column in answers.values() for one, label in zip(column, truth, strict=True))
    assert table.count("✗") == wrong >= 1
    for column in answers.values():
        for one in column:
            assert f"({one.probability:.0%})" in table


def test_picture_places_every_answer(answers):
    ax = plot_answers(answers, "positive", ["positive", "negative", "negative"], width=10)
    for collection, column in zip(ax.collections[1:], answers.values(), strict=True):
        drawn = collection.get_offsets()
        assert drawn[:, 0].tolist() == pytest.approx([one.probabilities["positive"] for one in column])
    assert [text.get_text() for text in ax.get_yticklabels()][1] == "bad  [negative]"
    assert len(ax.get_yticklabels()[0].get_text()) == 10 + len("  [positive]")
    ax.figure.canvas.draw()
    one = plot_answers({"full": answers["full"]}, "negative")
    assert len(one.collections) == 2
    with pytest.raises(DataError, match="'angry'"):
        plot_answers(answers, "angry")
    with pytest.raises(DataError, match="nothing to draw"):
        plot_answers({}, "positive")


def test_box_answers_what_is_typed(supernet, models):
    box = SentenceBox(models, supernet.processor, "good")
    assert box.answer.value == answers_html({n: predict(m, supernet.processor, "good") for n, m in models.items()})
    box.box.value = "a bad film"
    assert box.answer.value == answers_html(
        {n: predict(m, supernet.processor, "a bad film") for n, m in models.items()}
    )
    box.box.value = "good film " * 2000
    assert "cut to" in box.answer.value
    box.box.value = "  "
    assert box.answer.value == "Type a sentence."
    box.processor = None
    box.box.value = "bad"
    assert 'role="alert"' in box.answer.value
    assert "need a tokenizer" in box.answer.value
