"""Which layout a bundle's model reads: the reader's own use case's, or that of the one in the bundle."""

from definitions.errors import UseCaseError
from definitions.kept_usecase import FILE, from_json
from definitions.layout import Layout, layout_of
from definitions.usecase import UseCase

from bundle.errors import AdmissionError
from bundle.folder import Bundle


def bundle_layout(bundle: Bundle, own: UseCase) -> Layout:
    """The plan by which the bundle's inputs are read and assembled, under the bundle's revision.

    `own` holds where its layout is the model's, with its rules as they are now. Where its file was edited since, the
    use case in the bundle does: so a model is served, and rolled back to, whatever has become of the file.

    Raises:
        AdmissionError: the bundle is another use case's, or neither has the layout that its manifest names.
    """
    manifest = bundle.manifest
    if manifest.usecase != own.name:
        raise AdmissionError(f"{bundle.folder}: usecase: the bundle says {manifest.usecase!r}, expected {own.name!r}")
    layout = layout_of(own, manifest.revision)
    path = bundle.folder / FILE
    if layout.layout_hash != manifest.layout_hash and path.exists():
        try:
            layout = layout_of(from_json(path.read_bytes(), str(path)), manifest.revision)
        except UseCaseError as exc:
            raise AdmissionError(str(exc)) from exc
    wrong = [
        f"{field}: the bundle says {found!r}, expected {expected!r}"
        for field, found, expected in (
            ("layout_hash", manifest.layout_hash, layout.layout_hash),
            ("feature_names", manifest.feature_names, layout.feature_names),
        )
        if found != expected
    ]
    if wrong:
        raise AdmissionError(f"{bundle.folder}: {'; '.join(wrong)}; train and deploy again with this use case")
    return layout
