import pytest
import torch

from any2point_hf.modeling import Any2PointConfig, ConfigurationError
from any2point_hf.modeling.backbones.detector import backbone_spec
from any2point_hf.modeling.projection.virtual_projection import LineProjection, PlaneProjection
from any2point_hf.modeling.projection_choice import make_projection


def project(backbone_config, **fields):
    return make_projection(Any2PointConfig(backbone_config=backbone_config, **fields), backbone_spec(backbone_config))


def bert_of(make, num_rows):
    config = make.config("bert")
    config.max_position_embeddings = num_rows
    return config


def test_lines_are_as_long_as_the_table_but_at_most_77(make):
    assert project(bert_of(make, 24)).length == 24
    assert project(bert_of(make, 512)).length == 77
    assert project(bert_of(make, 512), line_length=300).length == 300
    assert project(bert_of(make, 512)).cell_size == 2
    with pytest.raises(ConfigurationError, match="line_length must not exceed the backbone's 24 positions, got 25"):
        project(bert_of(make, 24), line_length=25)


def test_planes_are_the_backbones_canvas(make):
    plane = project(make.config("dinov2"))
    assert (plane.width, plane.height, plane.grid) == (28, 28, (4, 4))
    assert plane.cell_size == 2  # ⌈28 / 20⌉
    spectrogram = project(make.config("imagebind_audio"))
    assert (spectrogram.width, spectrogram.height, spectrogram.grid, spectrogram.cell_size) == (304, 192, (12, 19), 16)


def test_the_released_audio_table_is_viewed_the_other_way(make):
    released = project(make.config("imagebind_audio"), plane=[192, 304], released_compatibility=True)
    assert released.grid == (19, 12)
    assert project(make.config("imagebind_audio"), plane=[192, 304]).grid == (12, 19)
    assert project(make.config("dinov2"), plane=[56, 56], released_compatibility=True).grid == (4, 4)


def test_modality_overrides_the_backbone(make):
    assert type(project(make.config("dinov2"), modality="1d")) is LineProjection
    plane = project(bert_of(make, 64), modality="2d", plane=[32, 32])
    assert type(plane) is PlaneProjection
    assert (plane.grid, plane.width, plane.height, plane.cell_size) == ((8, 8), 32, 32, 2)
    assert project(bert_of(make, 98), modality="2d", plane=[64, 32]).grid == (7, 14)


def test_a_line_laid_out_as_a_grid_is_read_row_by_row(make):
    plane = project(bert_of(make, 32), modality="2d", plane=[64, 32])
    table = torch.randn(32, 5)
    corners = torch.tensor([[0.0, 0], [63, 0], [0, 31], [63, 31]]).view(1, 1, 4, 2)
    encoding = plane.encode(corners, table)[0]
    torch.testing.assert_close(encoding, table[[0, 7, 24, 31]])


@pytest.mark.parametrize("plane", [None, [32, 16], [30, 32]])
def test_a_line_that_is_no_grid_of_the_planes_proportions_is_refused(make, plane):
    with pytest.raises(ConfigurationError, match=r'modality="2d" needs .*64 positions lie on a line.*got plane='):
        project(bert_of(make, 64), modality="2d", plane=plane)
