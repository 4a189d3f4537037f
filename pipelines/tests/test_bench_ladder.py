"""What the ladder's bench makes of answers; the real thing is in tests/e2e."""

from pathlib import Path

import numpy as np
import pytest
from bundle import load_bundle
from definitions.events import EventColumns
from definitions.layout import layout_of
from definitions.usecase import find_usecase
from pipelines.bench import at_most, ladder, planted
from pipelines.bench.open_loop import Answer, Question
from pipelines.errors import UnavailableError
from servicekit.settings import checkout_root


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


def answer(rung: str, reason: str, *, question: int = 0, items: tuple[int, ...] = (1, 2), sent: float = 0.0) -> Answer:
    return Answer(sent, sent, sent + 0.01, question, "OK", rung=rung, reason=reason, item_ids=ids(*items))


def test_a_question_has_the_users_judged_items_among_a_hundred() -> None:
    """A user who liked nothing says nothing about an order, and is left out."""
    events = EventColumns.of(5, user_id=[1, 1, 2, 2, 1], item_id=[7, 8, 7, 9, 7], event_time_us=[50, 40, 10, 20, 60])
    found = ladder.questions_of(events, np.array([1, 0, 0, 0, 1]), np.arange(1, 301, dtype=np.uint64))

    (question,) = found
    assert (1, 40) == (question.user_id, question.time_us)
    assert [7, 8] == question.judged.tolist()
    assert [1, 0] == question.labels.tolist()
    assert 100 == len(set(question.item_ids.tolist()))
    assert {7, 8} < set(question.item_ids.tolist())


def test_quality_is_of_the_judged_items_in_the_order_of_the_answer() -> None:
    """One good item behind one bad one: 1 / log2(3). What stands between them and is not judged counts for nothing."""
    question = Question(1, ids(1, 2, 3, 4), ids(1, 2), np.array([1, 0]))

    assert 1.0 == ladder.quality([answer("MODEL", "", items=(3, 1, 4, 2))], [question])
    assert pytest.approx(1 / np.log2(3)) == ladder.quality([answer("MODEL", "", items=(2, 3, 4, 1))], [question])
    assert None is ladder.quality([], [question])


@pytest.mark.parametrize(
    ("rung", "reason", "is_bad"),
    [
        ("MODEL", "", False),
        ("LOCAL_MODEL", "MODEL:breaker", False),
        ("POPULAR", "MODEL:time,LOCAL_MODEL:bad_scores,PRECOMPUTED:no_row", False),
        ("UNSPECIFIED", "", True),
        ("LOCAL_MODEL", "", True),
        ("POPULAR", "MODEL:time,PRECOMPUTED:no_row", True),
        ("MODEL", "MODEL:time", True),
    ],
)
def test_an_answer_names_its_rung_and_why_each_better_one_was_left(rung: str, reason: str, is_bad: bool) -> None:
    """Nothing less is a label."""
    assert is_bad == ladder._mislabelled(answer(rung, reason))


def test_a_planted_wrapper_is_the_honest_one_and_more(tmp_path: Path) -> None:
    """So that a change of the template is in the bench too; and it compiles."""
    (tmp_path / "infra").mkdir()
    (tmp_path / "infra" / "model.py").write_text("class TritonPythonModel:\n    honest = True\n")
    made = planted.planted_templates(tmp_path / "infra", tmp_path / "made")
    text = (made / "model.py").read_text()

    assert text.startswith("class TritonPythonModel:\n    honest = True\n")
    compile(text, "model.py", "exec")


def test_a_fragile_fallback_is_as_before_until_its_column_is_absurd(tmp_path: Path) -> None:
    """So that it passes every check of a deploy."""
    layout = layout_of(find_usecase("movies", checkout_root() / "usecases"))
    honest = planted.small_bundle(tmp_path / "small" / "1", layout)
    planted.with_fragile_fallback(honest, tmp_path / "small" / "2", "i_year")
    fragile = load_bundle(tmp_path / "small" / "2")

    assert honest.golden.fallback_scores.tolist() == fragile.golden.fallback_scores.tolist()
    rows = honest.golden.features.copy()
    rows[3, layout.feature_names.index("i_year")] = 2 * planted.EDGE
    assert [3] == np.flatnonzero(np.isnan(fragile.fallback().score(rows))).tolist()
    assert np.isfinite(fragile.model().score(rows)).all()


def test_a_fault_is_there_until_it_is_healed(tmp_path: Path) -> None:
    """The wrapper looks for the file at each batch."""
    heal = planted.spoil(tmp_path, "slow 0.3")
    assert "slow 0.3" == (tmp_path / "fault").read_text()
    heal()
    assert [] == list(tmp_path.iterdir())


def test_a_machine_that_misses_a_bar_without_a_fault_judges_none() -> None:
    """Else a busy machine's failures would be laid at the faults' door."""
    keys = {"failed_after_2s": 7, "worst_p99_ms": 140.0}
    ladder.refuse_unfit([at_most(keys, "worst_p99_ms", 170)])
    with pytest.raises(UnavailableError, match=r"already misses failed_after_2s 7 for 0: this machine is too busy"):
        ladder.refuse_unfit([at_most(keys, "failed_after_2s", 0), at_most(keys, "worst_p99_ms", 170)])
