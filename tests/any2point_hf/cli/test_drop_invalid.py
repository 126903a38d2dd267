"""`--drop-invalid` in every command that reads clouds of one's own: an error that names it, and a report."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.usefixtures("one_thread")

NAMED = "--drop-invalid (in Python drop_invalid=True)."


@pytest.fixture
def depth_image(tmp_path, two_classes):
    """A disc in a file; of its 120 points 40 are at the origin."""
    points = np.concatenate([np.zeros((40, 3), np.float32), two_classes.cloud(1, np.random.default_rng(5))])
    np.save(tmp_path / "disc.npy", points)
    return tmp_path / "disc.npy"


@pytest.fixture
def spoiled_data(tmp_path, two_classes):
    """The two classes, of which one training cloud has a row of NaN and two test clouds are at the origin in part."""
    arrays = two_classes.arrays()
    arrays["points"][3, 0] = np.nan
    arrays["points"][-2:, :21] = 0
    np.savez(tmp_path / "spoiled.npz", **arrays)
    return tmp_path / "spoiled.npz"


def assert_refused(result):
    assert result.code == 2
    message = result.err.splitlines()[-1]  # progress bars come before it
    assert message.startswith("error: ")
    assert message.endswith(NAMED)
    assert len(message) < 500
    assert "Traceback" not in result.err


def test_predict(run_command, adapter, depth_image):
    assert_refused(run_command("predict", depth_image, "--model", adapter))
    with pytest.warns(UserWarning, match=r"disc\.npy: 40 of 120 points are dropped"):
        result = run_command("predict", depth_image, "--model", adapter, "--drop-invalid", "--json")
    assert result.code == 0
    np.save(depth_image, np.load(depth_image)[40:])
    assert json.loads(run_command("predict", depth_image, "--model", adapter, "--json").out) == json.loads(result.out)


@pytest.mark.parametrize("command", ["embed", "predict"])
def test_a_collection(run_command, adapter, depth_image, tmp_path, command):
    (folder := tmp_path / "scans").mkdir()
    depth_image.rename(folder / "disc.npy")
    job = (command, folder, "--model", adapter, "--out", tmp_path / "out.parquet")
    refused = run_command(*job)
    assert (refused.code, "--drop-invalid" in refused.err) == (2, True)
    done = run_command(*job, "--drop-invalid")
    assert done.code == 0
    out = tmp_path / "out.parquet"
    assert done.out.splitlines()[-1] == (
        f"1 clouds written to {out}, 40 invalid points of 1 clouds dropped (column dropped_points)"
    )
    assert pq.read_table(out)["dropped_points"].to_pylist() == [40]
    counted = json.loads(run_command(*job, "--drop-invalid", "--json").out)
    assert counted == {
        "out": str(out),
        "clouds": 1,
        "skipped": 0,
        "dropped_points": 40,
        "clouds_with_dropped_points": 1,
        "skipped_listed_in": None,
    }


def test_evaluate(run_command, adapter, spoiled_data):
    asked = ("evaluate", "--model", adapter, "--data", spoiled_data, "--json")
    assert_refused(run_command(*asked))
    with pytest.warns(UserWarning, match="3 of 24 clouds had invalid points: 43 points are dropped"):
        result = run_command(*asked, "--drop-invalid")
    assert result.code == 0
    assert json.loads(result.out)["num_clouds"] == 8


def test_train_keeps_the_option_in_the_processor_and_in_the_card(run_train, run_command, spoiled_data, tmp_path):
    assert_refused(run_train("--data", spoiled_data))
    with pytest.warns(UserWarning, match="3 of 24 clouds had invalid points"):
        assert run_train("--data", spoiled_data, "--drop-invalid").code == 0
    folder = tmp_path / "trained"
    assert json.loads((folder / "preprocessor_config.json").read_text())["drop_invalid"] is True
    assert "--drop-invalid" in (folder / "README.md").read_text(encoding="utf-8")
    with pytest.warns(UserWarning, match="3 of 24 clouds had invalid points"):
        assert run_command("evaluate", "--model", folder, "--data", spoiled_data).code == 0


def test_visualize(run_command, adapter, depth_image, tmp_path):
    asked = ("visualize", depth_image, "--model", adapter, "--kind", "tokens", "--out", tmp_path / "a.html")
    assert_refused(run_command(*asked))
    with pytest.warns(UserWarning, match="40 of 120 points are dropped"):
        assert run_command(*asked, "--drop-invalid").code == 0
    assert (tmp_path / "a.html").is_file()


def test_few_shot_and_reproduce_and_diagnose(run_command, adapter, bert, spoiled_data, tmp_path):
    few_shot = ("few-shot", "--data", spoiled_data, "--backbone", bert, "--output", tmp_path / "few", "--ways", "2")
    assert_refused(run_command(*few_shot))
    with pytest.warns(UserWarning, match="3 of 24 clouds had invalid points"):  # and then there are too few for a fold
        assert "classes of at least 30 training clouds" in run_command(*few_shot, "--drop-invalid").err
    figures = ("reproduce", "--figures", "--data", spoiled_data, "--model", adapter, "--output", tmp_path / "figures")
    assert_refused(run_command(*figures))
    kinds = ("--backbone-1d", bert, "--backbone-2d", bert, "--backbone-audio", bert)
    assert_refused(
        run_command("reproduce", "--table", "3", "--data", spoiled_data, "--output", tmp_path / "all", *kinds)
    )
    diagnose = ("info", "--backbone", bert, "--num-points", "64", "--num-neighbors", "8", "--diagnose", spoiled_data)
    assert_refused(run_command(*diagnose))
    with pytest.warns(UserWarning, match="3 of 24 clouds had invalid points"):
        assert run_command(*diagnose, "--drop-invalid").code == 0
    misplaced = run_command("info", "--backbone", bert, "--drop-invalid")
    assert (misplaced.code, "--drop-invalid belongs to --diagnose" in misplaced.err) == (2, True)
