"""What tests of this room share."""

import pytest
from tiny_models import make_model, small_resnet


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folder of an untrained model of each kind, whose encoders are small."""
    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torchvision.models.resnet18", small_resnet)
        for kind in ("distill", "encoder", "chunks"):
            make_model(folder / kind, kind)
        yield folder
