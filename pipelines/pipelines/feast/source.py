"""The data source that stands for our lake in Feast's registry."""

from collections.abc import Callable, Iterable
from typing import Any

from feast import RepoConfig, ValueType
from feast.data_source import DataSource
from feast.protos.feast.core.DataSource_pb2 import DataSource as DataSourceProto


class LakeSource(DataSource):  # type: ignore[misc]  # Feast is in no environment that is type-checked
    """The lake that `feature_store.yaml` names: it has no columns of its own, values are computed from its events."""

    def source_type(self) -> Any:
        """Not one of Feast's own."""
        return DataSourceProto.CUSTOM_SOURCE

    @staticmethod
    def from_proto(data_source: DataSourceProto) -> "LakeSource":
        """What the registry holds."""
        return LakeSource(
            name=data_source.name,
            timestamp_field=data_source.timestamp_field,
            description=data_source.description,
            tags=dict(data_source.tags),
            owner=data_source.owner,
        )

    def _to_proto_impl(self) -> DataSourceProto:
        return DataSourceProto(
            name=self.name,
            type=DataSourceProto.CUSTOM_SOURCE,
            data_source_class_type=f"{LakeSource.__module__}.{LakeSource.__name__}",
            timestamp_field=self.timestamp_field,
            description=self.description,
            tags=self.tags,
            owner=self.owner,
        )

    def validate(self, config: RepoConfig) -> None:
        """Nothing: tables appear with the first event."""

    @staticmethod
    def source_datatype_to_feast_value_type() -> Callable[[str], ValueType]:
        """Never asked: every view has its schema."""
        return lambda _: ValueType.UNKNOWN

    def get_table_column_names_and_types(self, config: RepoConfig) -> Iterable[tuple[str, str]]:
        """None: every view has its schema."""
        del config
        return []
