"""What a job leaves for Prometheus."""

from pathlib import Path

from servicekit.textfile import replace_text, write_gauges


def test_the_file_is_prometheus_text(tmp_path: Path) -> None:
    """A second run replaces it."""
    path = tmp_path / "metrics" / "job.prom"
    for value in (1.0, 2.5):
        write_gauges(path, {"job_rows": ("Rows.", value)}, {"usecase": "shop"})

    assert '# HELP job_rows Rows.\n# TYPE job_rows gauge\njob_rows{usecase="shop"} 2.5\n' == path.read_text()
    assert ["job.prom"] == [each.name for each in path.parent.iterdir()]


def test_a_text_is_replaced_and_its_folder_made(tmp_path: Path) -> None:
    """Nothing is left beside it."""
    path = tmp_path / "reports" / "job.json"
    for text in ("{}\n", '{"ü": 1}\n'):
        replace_text(path, text)

    assert '{"ü": 1}\n' == path.read_text(encoding="utf-8")
    assert [path] == list(path.parent.iterdir())
