"""Serving rules as data: what YAML may say of them, one canonical text, and errors that name the field."""

from pathlib import Path

import pytest
from definitions.errors import UseCaseError
from definitions.rules import Candidates, Rules
from definitions.usecase import UseCase, load_usecase

FEED = """
usecase: feed
actions: [{name: view, label: 0}, {name: like, label: 1}, {name: hide, label: 0}]
attributes: {item: {topic: {kind: categories, width: 2}, uploaded_day: number, ends: number, country: category}}
candidates: {sources: [{two_tower: 0.5}, neighbours, {fresh: {by: uploaded_day, quota: 0.1}}, popular], limit: 200}
filters: [{by: ends, at_least: now}, {by: topic, none_of: [adult]}, {by: country, same_as: country}]
heads: {like: 1, hide: -5}
features: [{name: u_recent, of: user, kind: last_k, action: like, k: 8}]
rerank: [{max_share: {by: topic, share: 0.4}}, {pin: {item_id: 77, position: 3}}]
diversity: {lambda: 0.8, by: topic}
exploration: {epsilon: 0.1, slots: [3, 7], among: 20}
"""


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> UseCase:
    path: Path = tmp_path_factory.mktemp("rules") / "feed.yaml"
    path.write_text(FEED)
    return load_usecase(path)


def test_the_file_says_the_rules(feed: UseCase) -> None:
    """Head weights are rules too: they change without a training."""
    rules = feed.rules
    assert {"like": 1, "hide": -5} == rules.heads
    assert ("two_tower", "neighbours", "fresh", "popular") == tuple(s.name for s in rules.candidates.sources)
    assert (0.8, "topic", (3, 7)) == (rules.diversity.weight, rules.diversity.by, rules.exploration.slots)


def test_quotas_that_are_not_given_share_what_is_left(feed: UseCase) -> None:
    """In the order of the sources; they never add up to more than the limit."""
    assert (100, 40, 20, 40) == feed.rules.candidates.quotas(200)
    assert (7,) == Candidates().quotas(7)
    thirds = Candidates.model_validate({"sources": ["two_tower", "neighbours", "popular"]})
    assert (3, 3, 3) == thirds.quotas(10)


def test_equal_rules_have_one_text(feed: UseCase) -> None:
    """However they were written; and the text is the rules."""
    text = feed.rules.to_json()
    assert feed.rules == Rules.parse(text) == feed.rules_of(text)
    assert text == Rules.parse(text).to_json()
    short = '{"diversity": {"lambda": 0.8}, "candidates": {"sources": ["popular"]}}'
    assert Rules.parse(short).to_json() == Rules.parse('{"diversity": {"weight": 0.8, "depth": 50}}').to_json()


def test_no_text_means_the_use_cases_own(feed: UseCase) -> None:
    """A decision without rules leaves those of the YAML; one that names some leaves the others; null takes away."""
    assert feed.rules == feed.rules_of("")
    some = feed.rules_of('{"diversity": {"lambda": 0.5}, "exploration": null}')
    assert (0.5, None) == (some.diversity.weight, some.exploration)
    assert feed.rules == some.model_copy(
        update={"diversity": feed.rules.diversity, "exploration": feed.rules.exploration}
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ('{"diversity": {"lambda": 2}}', "diversity.lambda"),
        ('{"exploration": {"epsilon": 0.1, "slots": [3, 1]}}', "slots: must ascend"),
        ('{"heads": {"like": NaN}}', "heads.like"),
        ('{"heads": {"share": 1}}', "heads: 'share' is unknown; use one of like, hide"),
        ('{"colour": 1}', "colour: there is no such key"),
        ('{"candidates": {"sources": ["popular", "popular"]}}', "'popular' is there twice"),
        ('{"candidates": {"sources": [{"popular": 0.9}, {"neighbours": 0.2}]}}', "add up to 1.1; at most 1"),
        ('{"candidates": {"sources": ["magic"]}}', "candidates.sources.0.name"),
        ('{"candidates": {"sources": ["fresh"]}}', "by: name the item's number"),
        ('{"candidates": {"sources": [{"fresh": {"by": "topic"}}]}}', "fresh.by 'topic' is no number"),
        ('{"candidates": {"sources": [{"popular": {"by": ["moon"]}}]}}', "not by 'moon'"),
        ('{"candidates": {"history": "u_old"}}', "candidates.history: there is no last_k feature named 'u_old'"),
        ('{"filters": [{"by": "topic", "at_least": 3}]}', "filters: by 'topic' is no number attribute"),
        ('{"filters": [{"by": "ends"}]}', "give `at_least` or `at_most`"),
        ('{"filters": [{"by": "ends", "none_of": ["x"]}]}', "filters: by 'ends' is no category attribute"),
        ('{"rerank": [{"max_share": {"by": "ends", "share": 0.5}}]}', "max_share.by 'ends' is no category"),
        ('{"rerank": [{}]}', "give one rule"),
        (
            '{"rerank": [{"pin": {"item_id": 1, "position": 2}}, {"pin": {"item_id": 3, "position": 2}}]}',
            "two pins have the position 2",
        ),
        ('{"diversity": {"lambda": 0.5, "by": "ends"}}', "diversity: by 'ends' is no category"),
    ],
)
def test_what_does_not_fit_is_refused_by_field(feed: UseCase, text: str, message: str) -> None:
    """The message names the field and what would be right."""
    with pytest.raises(UseCaseError) as caught:
        feed.rules_of(text)
    assert message in str(caught.value)


def test_a_file_with_rules_that_do_not_fit_is_refused(tmp_path: Path) -> None:
    """The same checks, at load."""
    path = tmp_path / "feed.yaml"
    path.write_text(FEED.replace("by: uploaded_day", "by: nothing"))
    with pytest.raises(UseCaseError, match=r"fresh\.by 'nothing' is no number"):
        load_usecase(path)


def test_sources_that_search_by_history_need_one(tmp_path: Path) -> None:
    """A use case without a last_k feature has nothing to search by."""
    path = tmp_path / "feed.yaml"
    path.write_text(FEED.replace("features: [", "features: [] # ["))
    with pytest.raises(UseCaseError, match="two_tower searches by what a user did"):
        load_usecase(path)
