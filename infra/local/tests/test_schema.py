"""The Job that makes topics and tables on servers of somebody else, as far as it goes without them."""

from pathlib import Path

import pytest
from local_stack.home import checkout_root
from local_stack.schema import main

TOPICS = checkout_root() / "infra" / "kafka" / "topics.yaml"


def test_a_missing_declaration_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2: Kubernetes gives the Job up instead of trying it again."""
    assert 2 == main(["--kafka", "127.0.0.1:1", "--topics", str(tmp_path / "none.yaml"), "--usecases", "movies"])
    assert "none.yaml" in capsys.readouterr().err


def test_tables_need_their_file() -> None:
    """Said by the parser, before any server is asked."""
    with pytest.raises(SystemExit) as ended:
        main(["--kafka", "h:1", "--topics", str(TOPICS), "--usecases", "movies", "--cassandra", "h:2"])

    assert ended.value.code == 2
