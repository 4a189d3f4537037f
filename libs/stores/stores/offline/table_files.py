"""Delta tables whose folder has a name that a URL cannot hold, such as one with a space, as Polars can read them."""

from typing import Any
from urllib.parse import unquote

from deltalake import DeltaTable


class LocalNames(DeltaTable):
    """A table that names its local files as they are.

    delta-rs tells them percent-encoded below an encoded root, and `pl.scan_delta` opens what it is told:
    https://github.com/pola-rs/polars/issues/20944. Below the root nothing of ours needs encoding.
    """

    def file_uris(self, *args: Any, **kwargs: Any) -> list[str]:
        """The files of this version: paths on the file system, URIs elsewhere."""
        found = super().file_uris(*args, **kwargs)
        root = self.table_uri.removeprefix("file://")
        if root == self.table_uri or root == unquote(root):
            return found
        return [unquote(root) + each.removeprefix(root) for each in found]
