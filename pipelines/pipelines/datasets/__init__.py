"""Where examples come from: public data, a synthetic world, or anyone's CSV and Parquet, all as one type."""

from pipelines.datasets.dataset import Dataset, Tables, build_dataset
from pipelines.datasets.load import DataPaths, load_dataset
from pipelines.datasets.split import Split, split_times

__all__ = ["DataPaths", "Dataset", "Split", "Tables", "build_dataset", "load_dataset", "split_times"]
