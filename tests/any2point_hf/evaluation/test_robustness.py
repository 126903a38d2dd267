import json

import numpy as np
import pytest

from any2point_hf import trained_adapter
from any2point_hf.data.corruptions import CORRUPTIONS, corrupt
from any2point_hf.evaluation.corruption_errors import Robustness
from any2point_hf.evaluation.robustness import evaluate_corruptions


@pytest.fixture(scope="module")
def robustness(adapter, two_classes):
    return evaluate_corruptions(trained_adapter.open_split(str(adapter), str(two_classes.path)), batch_size=3)


@pytest.mark.filterwarnings("ignore:.*fewer than num_points")
def test_accuracies_are_those_of_corrupted_files(adapter, two_classes, robustness, tmp_path):
    """The slow way: corrupt a normalised cloud, write it to a file, let the adapter predict it."""
    arrays = two_classes.arrays()
    test = np.flatnonzero(arrays["split"] == 1)
    for name, level in (("jitter", 5), ("drop-local", 5), ("add-local", 3)):
        files = []
        for index, cloud in enumerate(arrays["points"][test]):
            centred = cloud - cloud.mean(axis=0)
            centred /= np.linalg.norm(centred, axis=1).max()
            ordered = centred[np.lexsort(centred.T[::-1])]
            first = np.linalg.norm(ordered, axis=1).argmax()
            ordered = np.concatenate([ordered[first : first + 1], np.delete(ordered, first, axis=0)])
            files.append(tmp_path / f"{name}_{index}.npy")
            np.save(files[-1], corrupt(ordered, name, level, index))
        answers = trained_adapter.predict(str(adapter), [str(file) for file in files])
        correct = [
            answer["classes"][0]["label"] == arrays["class_names"][arrays["labels"][row]]
            for answer, row in zip(answers, test, strict=True)
        ]
        assert robustness.levels[name][level - 1] == np.mean(correct)


def test_clean_accuracy_is_that_of_evaluate(adapter, two_classes, robustness):
    assert robustness.clean == trained_adapter.evaluate(str(adapter), str(two_classes.path))["accuracy"]
    assert {name: len(values) for name, values in robustness.levels.items()} == dict.fromkeys(CORRUPTIONS, 5)
    assert min(min(values) for values in robustness.levels.values()) < robustness.clean  # noise of 0.05 hurts a disc


def test_the_command_line_prints_them(run_command, adapter, two_classes, robustness):
    asked = ("evaluate", "--model", adapter, "--data", two_classes.path, "--corruptions")
    result = run_command(*asked, "--json")
    assert Robustness(**{name: json.loads(result.out)[name] for name in ("clean", "levels")}) == robustness
    lines = run_command(*asked).out.splitlines()
    assert lines[0].split() == ["clean", f"{robustness.clean:.4f}"]
    assert lines[2].split() == ["jitter", *(f"{value:.4f}" for value in robustness.levels["jitter"])]
    assert lines[-1].startswith(f"mCE {robustness.mean_corruption_error:.3f}, RmCE ")
