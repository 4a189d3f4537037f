"""The use-case file: what it accepts, and how it says what is wrong."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from definitions.durations import DAY_US, HOUR_US, MINUTE_US, duration_us, hop_us
from definitions.errors import UseCaseError
from definitions.features import Condition
from definitions.layout import layout_of
from definitions.usecase import UseCase, find_usecase, load_usecase
from definitions.usecase_parts import Encoding

USECASES = Path(__file__).parents[3] / "usecases"
SMALL = """
usecase: small
actions: [{name: view, label: 0}, {name: rate, label: {if_value_at_least: 4, weight: 1}}]
attributes: {item: {genre: category, title: text}}
category: item.genre
features:
  - {name: u_seen, of: user, kind: count, action: view, windows: [1h, all]}
"""


def test_the_shipped_use_case_loads_by_name_and_by_path() -> None:
    """Both ways give the same use case."""
    by_name = find_usecase("movies", USECASES)

    assert by_name == find_usecase(str(USECASES / "movies.yaml"), Path("nowhere"))
    assert by_name.action_names == ("view", "click", "rate")


@pytest.mark.parametrize(
    ("old", "new", "field", "remedy"),
    [
        ("kind: count", "kind: recent_residual", "features.0", "item_mean"),
        ("{name: u_seen", "{name: item_id", "features", "rename one"),
        ("kind: count", "kind: median", "features.0", "'count'"),
        ("windows: [1h", "windows: [61m", "windows", "is no multiple"),
        ("windows: [1h", "windows: [1 hour", "windows", "such as 24h"),
        ("windows: [1h, all]", "windows: [1h, 1h]", "features.0", "twice"),
        ("action: view", "action: look", "feature u_seen", "use one of view, rate"),
        ("kind: count", "kind: count, colour: red", "colour", "there is no such key"),
        ("category: item.genre", "category: item.title", "category", "declare it under attributes.item"),
        ("category: item.genre", "columns: {user: a}", "columns", "use one of"),
        ("category: item.genre", "columns: {action: {const: look}}", "columns.action", "use one of view, rate"),
        ("category: item.genre", "columns: {value: {unit: s}}", "columns.value", "give either"),
        ("category: item.genre", "seen: {actions: [look]}", "seen.actions", "use one of view, rate"),
        ("category: item.genre", "models: {ladder: [lr], fallback: ease}", "models", "add it there"),
        ("category: item.genre", "models: {ladder: [lr, lr]}", "models", "there twice"),
        ("category: item.genre", "models: [resnet, lr]", "models.ladder.0", "'lightgbm'"),
        ("category: item.genre", "task: {type: regression, primary: rmse}", "task", "use mae, rmse"),
        ("category: item.genre", "task: {primary: rmse}", "task", "use gauc"),
        ("category: item.genre", "objective: mse", "objective", "use cross_entropy"),
        ("category: item.genre", "objective: {lambdarank: {logq: true}}", "objective", "logq is an option of"),
        ("category: item.genre", "objective: hinge", "objective.name", "'cross_entropy'"),
        (
            "category: item.genre",
            "task: {type: regression, primary: rmse, guards: [mae]}\nobjective: mse",
            "label.value",
            "value: rate",
        ),
        ("category: item.genre", "label: {value: look}", "label.value", "use one of view, rate"),
        ("category: item.genre", "label: {window: soon}", "label.window", "such as 24h"),
        ("category: item.genre", "heads: {look: 1}", "heads.look", "use one of view, rate"),
        ("category: item.genre", "heads: {x: {positive: rate, value: rate}}", "heads.x", "give either"),
        ("category: item.genre", "negatives: {source: uniform, keep: 0.1}", "negatives", "keep is an option of"),
        ("category: item.genre", "negatives: {per_positive: 3}", "negatives", "per_positive is an option of"),
        ("category: item.genre", "negatives: {keep: 0}", "negatives.keep", "greater than 0"),
        ("{name: rate,", "{name: view,", "actions", "rename one"),
        ("usecase: small", "usecase: 7", "usecase", "valid string"),
        ("usecase: small", "[", "no valid YAML", ""),
        (SMALL, "- a list", "must be a mapping", "usecase: <name>"),
    ],
)
def test_a_wrong_file_is_refused_by_file_field_and_remedy(
    tmp_path: Path, old: str, new: str, field: str, remedy: str
) -> None:
    """One message tells where to look and what to do."""
    assert old in SMALL
    path = tmp_path / "small.yaml"
    path.write_text(SMALL.replace(old, new, 1))

    with pytest.raises(UseCaseError) as refused:
        load_usecase(path)

    assert str(path) in str(refused.value)
    assert field in str(refused.value)
    assert remedy in str(refused.value)


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    """Two wrong fields, two lines."""
    path = tmp_path / "small.yaml"
    path.write_text(SMALL.replace("1h", "61m") + "colour: red\nslos: 1\n")

    with pytest.raises(UseCaseError, match=r"3 problem\(s\)"):
        load_usecase(path)


@pytest.mark.parametrize(
    "feature",
    [
        {"name": "x", "of": "cross", "kind": "affinity_rate", "table": "u_seen"},
        {"name": "x", "of": "cross", "kind": "candidate_seen", "history": "u_seen"},
        {"name": "x", "of": "item", "kind": "attribute", "from": "title"},
        {"name": "u_seen", "of": "item", "kind": "attribute", "from": "genre"},
    ],
)
def test_a_feature_that_points_at_nothing_is_refused(feature: dict[str, str]) -> None:
    """Tables, histories and attributes must be there, and names differ."""
    content = yaml.safe_load(SMALL)
    content["features"].append(feature)

    with pytest.raises(ValueError, match=r"there is no|declare it|rename one"):
        UseCase.model_validate(content)


ENCODED = """
  - {name: i_genre, of: item, kind: attribute, from: genre}
  - {name: i_year, of: item, kind: attribute, from: year, default: -1}
  - {name: c_device, of: request, kind: context, from: device}
"""


def encoded(i_genre: str = "", i_year: str = "", c_device: str = "") -> UseCase:
    text = SMALL.replace("title: text", "title: text, year: number") + ENCODED
    for source, extra in (("genre}", i_genre), ("-1}", i_year), ("device}", c_device)):
        text = text.replace(source, source.replace("}", f"{extra}}}"))
    return UseCase.model_validate(yaml.safe_load(text))


def test_encodings_are_options_that_change_no_byte() -> None:
    """How a model reads a column is not what the column holds: rows stay valid, so the layout hash stays."""
    plain = encoded()
    chosen = encoded(", encode: hashing, missing: own_code", ", missing: indicator", ", encode: embedding")

    assert Encoding("category", None, None) == plain.encodings["i_genre"]
    assert Encoding("category", "hashing", "own_code") == chosen.encodings["i_genre"]
    assert Encoding("number", None, "indicator") == chosen.encodings["i_year"]
    assert Encoding("category", "embedding", None) == chosen.encodings["c_device"]
    assert layout_of(plain).layout_hash == layout_of(chosen).layout_hash


@pytest.mark.parametrize(
    ("column", "extra", "remedy"),
    [
        ("i_year", ", encode: one_hot", "remove it"),
        ("i_year", ", missing: own_code", "use indicator"),
        ("i_genre", ", missing: train_median", "use own_code"),
        ("c_device", ", encode: native, missing: native_nan", "use own_code"),
    ],
)
def test_an_encoding_must_fit_its_column(column: str, extra: str, remedy: str) -> None:
    """Numbers have no codes and codes no median."""
    with pytest.raises(ValueError, match=f"feature {column}: (encode|missing).*{remedy}"):
        encoded(**{column: extra})


def test_learning_keys_have_a_short_form() -> None:
    """What is said most often is said shortest, and means the same."""
    content = yaml.safe_load(SMALL)
    short = UseCase.model_validate(
        content
        | {
            "objective": "in_batch_softmax",
            "heads": {"rate": 5, "liked": {"weight": 1, "positive": {"rate": {"if_value_at_least": 4}}}},
            "models": ["popularity", "lr"],
        }
    )
    long = UseCase.model_validate(
        content
        | {
            "objective": {"in_batch_softmax": {"logq": True}},
            "heads": {"rate": {"weight": 5}, "liked": {"positive": {"rate": {"if_value_at_least": 4}}}},
            "models": {"ladder": ["popularity", "lr"], "fallback": "lr"},
        }
    )

    assert short == long
    assert {"rate": Condition()} == short.head_actions("rate")
    assert {"rate": Condition(if_value_at_least=4)} == short.head_actions("liked")


@pytest.mark.parametrize(
    ("learning", "expected"),
    [
        ({"label": {"examples": ["rate"], "positive": {"rate": {"if_value_at_least": 4}}, "window": "1h"}}, 0),
        ({"label": {"examples": ["view"], "positive": ["rate"], "window": "1h"}}, HOUR_US),
        ({"label": {"examples": ["rate"], "window": "1h"}, "heads": {"view": 1}}, HOUR_US),
        ({"label": {"examples": ["rate"], "window": "1h"}, "negatives": {"source": "impressions"}}, HOUR_US),
        ({"label": {"examples": ["view"], "positive": ["view"], "value": "rate", "window": "1h"}}, HOUR_US),
    ],
)
def test_a_label_that_comes_later_has_a_window(learning: dict[str, object], expected: int) -> None:
    """A rating says itself whether it is good; whether a view leads to one shows later."""
    assert expected == UseCase.model_validate(yaml.safe_load(SMALL) | learning).attribution_us


def test_missing_files_are_named(tmp_path: Path) -> None:
    """An unknown name lists those that are there; a file must be called as its use case."""
    (tmp_path / "other.yaml").write_text(SMALL)

    with pytest.raises(UseCaseError, match="known: other"):
        find_usecase("movies", tmp_path)
    with pytest.raises(UseCaseError, match="must be the file's name"):
        find_usecase("other", tmp_path)
    with pytest.raises(UseCaseError, match="cannot be read"):
        load_usecase(tmp_path / "none.yaml")


def test_labels_follow_the_actions(everything: UseCase) -> None:
    """A weight counts where its condition on the value holds; positives are those with a weight."""
    action = np.array([0, 1, 2, 2], np.uint32)
    value = np.array([9, 0, 4, 3.5], np.float32)

    assert everything.label_weights(action, value).tolist() == [0, 0.2, 1, 0]
    assert everything.is_positive(action, value).tolist() == [False, True, True, False]
    assert everything.is_example(action).tolist() == [False, True, True, True]


def test_the_label_section_overrules_the_actions() -> None:
    """In `movies` only ratings are examples, whatever clicks are worth."""
    movies = find_usecase("movies", USECASES)
    action, value = np.array([1, 2, 2], np.uint32), np.array([0, 4, 3], np.float32)

    assert movies.is_example(action).tolist() == [False, True, True]
    assert movies.is_positive(action, value).tolist() == [False, True, False]


def test_tiles_grow_with_the_window() -> None:
    """5 min below 12 h, 1 h below 12 d, 1 d above."""
    hops = {text: hop_us(duration_us(text)) for text in ("5m", "11h", "12h", "11d", "12d", "365d")}

    assert hops == {
        "5m": 5 * MINUTE_US,
        "11h": 5 * MINUTE_US,
        "12h": HOUR_US,
        "11d": HOUR_US,
        "12d": DAY_US,
        "365d": DAY_US,
    }
