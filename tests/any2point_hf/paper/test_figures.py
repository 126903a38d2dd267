"""The paper's figures, made by the command line of small trained and untrained adapters."""

import numpy as np
import pytest

from any2point_hf import Any2PointConfig, Any2PointForPointCloudClassification, Any2PointProcessor
from any2point_hf.data import build_dataset_dict
from any2point_hf.modeling.errors import DatasetError, PointCloudError
from any2point_hf.paper import figures as paper_figures
from any2point_hf.pictures.kinds import draw_attention, draw_clusters, draw_similarity
from any2point_hf.pictures.picture import Picture
from any2point_hf.trained_adapter import load

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def learnable(bert, tmp_path):
    """An adapter with another positional encoding and another adapter, untrained."""
    config = Any2PointConfig(
        backbone=str(bert), num_points=64, num_neighbors=8, position_encoding="learnable", aggregation="3d"
    )
    Any2PointForPointCloudClassification(config).save_pretrained(tmp_path / "learnable")
    Any2PointProcessor(num_points=64).save_pretrained(tmp_path / "learnable")
    return tmp_path / "learnable"


@pytest.fixture
def pictures(monkeypatch):
    """What is saved, by the file's name."""
    saved = {}
    save = Picture.save

    def remember(picture, path):
        saved[path.name] = picture
        return save(picture, path)

    monkeypatch.setattr(Picture, "save", remember)
    return saved


@pytest.mark.slow
def test_all_three_figures(run_command, adapter, learnable, two_classes, tmp_path, pictures):
    models = ("--model", adapter, "--model", learnable)
    out = tmp_path / "out"
    result = run_command("reproduce", "--figures", "--data", two_classes.path, *models, "--output", out)
    assert (result.code, result.out) == (0, f"written to {out / 'figures.md'}\n")
    names = {f"figure-{number}.{extension}" for number in (5, 6, 7) for extension in ("png", "html")}
    assert {file.name for file in out.iterdir()} == names | {"figures.md"}

    model, processor = load(str(adapter))
    arrays = two_classes.arrays()
    clouds = [arrays["points"][(arrays["split"] == 1) & (arrays["labels"] == label)] for label in (0, 1)]
    rows = {}
    for number, draw in ((5, draw_attention), (6, draw_clusters)):
        picture = pictures[f"figure-{number}.png"]
        assert picture.columns == 2
        rows[number] = [panel.title.split("\n") for panel in picture.panels]
        for label, panel in enumerate(picture.panels[::2]):  # of the first model
            expected = [draw(model, processor, cloud, block=1).panels[0].values for cloud in clouds[label]]
            assert any(np.array_equal(panel.values, values) for values in expected)
    positions = ["bert, 1d, virtual projection", "bert, 1d, learnable encoding"]
    assert rows[5] == [[cloud, heading] for cloud in ("ball", "disc") for heading in positions]
    adapters = ["bert, 1d, guided adapter", "bert, 1d, 3D-guided aggregation"]
    assert rows[6] == [[cloud, heading] for cloud in ("ball", "disc") for heading in adapters]

    views = pictures["figure-7.png"]
    assert (views.columns, len(views.panels)) == (7, 14)
    assert len({panel.limits for panel in views.panels}) == 1
    expected = [draw_similarity(model, processor, cloud).panels[3].values for cloud in clouds[1]]
    assert any(np.array_equal(views.panels[10].values, values) for values in expected)

    text = (out / "figures.md").read_text(encoding="utf-8")
    for number in (5, 6, 7):
        assert f"](figure-{number}.png)" in text
        assert f"](figure-{number}.html)" in text
    assert "`--set position_encoding=sinusoidal` (sinusoidal encoding)." in text
    assert "`--set ensemble=mean`" in text
    assert f"{learnable} is left out: its positions do not come from views." in text


def test_a_figure_that_no_model_can_show_says_so(learnable, two_classes, tmp_path):
    file = paper_figures.reproduce_figures(str(two_classes.path), [str(learnable)], tmp_path / "out", num_clouds=1)
    assert not (tmp_path / "out" / "figure-7.png").exists()
    assert "None of the models can be shown here." in file.read_text(encoding="utf-8").split("## Figure 7")[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--figures",), "--figures needs --model"),
        (("--figures", "--table", "1"), "not allowed with"),
        ((), "one of the arguments --table --figures --parts is required"),
        (("--table", "1", "--model", "a"), "--model belongs to --figures"),
        (("--figures", "--model", "a", "--epochs", "3"), "--epochs belongs to --table"),
    ],
)
def test_bad_options(run_command, two_classes, tmp_path, arguments, said):
    result = run_command("reproduce", *arguments, "--data", two_classes.path, "--output", tmp_path / "out")
    assert result.code == 2
    assert said in result.err
    assert not (tmp_path / "out").exists()


def test_data_without_a_test_split(adapter, tmp_path, two_classes):
    arrays = two_classes.arrays()
    np.savez(tmp_path / "train.npz", **{**arrays, "split": np.zeros_like(arrays["split"])})
    with pytest.raises(DatasetError, match="test"):
        paper_figures.reproduce_figures(str(tmp_path / "train.npz"), [str(adapter)], tmp_path / "out")


@pytest.mark.slow
def test_invalid_points_of_an_official_data_set_can_be_dropped(adapter, two_classes, tmp_path, monkeypatch):
    arrays = two_classes.arrays()
    clouds = [np.concatenate([cloud, np.full((5, 3), np.nan, np.float32)]) for cloud in arrays["points"][:4]]
    official = build_dataset_dict({"test": (clouds, arrays["labels"][:4])}, ["ball", "disc"])
    monkeypatch.setattr(paper_figures, "load_point_cloud_dataset", lambda *_, **__: official)
    with pytest.raises(PointCloudError, match="--drop-invalid"):
        paper_figures.reproduce_figures("official/", [str(adapter)], tmp_path)
    with pytest.warns(UserWarning, match="5 of 85 points are dropped"):
        assert paper_figures.reproduce_figures("official/", [str(adapter)], tmp_path, drop_invalid=True).is_file()
