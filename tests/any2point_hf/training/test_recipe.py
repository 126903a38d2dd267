from dataclasses import replace

import pytest

from any2point_hf.data.augmentation import Augmentation
from any2point_hf.modeling import ConfigurationError
from any2point_hf.modeling.presets import PRESETS
from any2point_hf.training.recipe import Recipe, changed, read_recipe
from any2point_hf.training.recipe_files import recipe_names


@pytest.mark.parametrize("name", ["scanobjectnn", "modelnet"])
def test_the_published_recipes(name):
    """Section 4.1 and the numbers of method.md 7."""
    recipe = read_recipe(name)
    assert (recipe.epochs, recipe.batch_size, recipe.gradient_accumulation) == (300, 32, 1)
    assert (recipe.learning_rate, recipe.lowest_learning_rate) == (5e-4, 1e-6)
    assert recipe.warm_up_share * recipe.epochs == pytest.approx(10)
    assert (recipe.weight_decay, recipe.largest_gradient_norm) == (0.05, 10)
    assert recipe.surplus_points * 1024 == 1200
    assert (recipe.precision, recipe.config) == ("float32", {})


def test_what_the_published_recipes_differ_in():
    scans, models = read_recipe("scanobjectnn"), read_recipe("modelnet")
    assert not scans.scale_to_unit_sphere
    assert scans.augmentation == Augmentation(scale=(0.9, 1.1), shift=0.0, rotation_axis="y")
    assert models.scale_to_unit_sphere
    assert models.augmentation.scale == pytest.approx((2 / 3, 3 / 2))
    assert (models.augmentation.shift, models.augmentation.rotation_axis) == (0.2, None)


def test_every_preset_has_a_recipe_that_scales_as_it_does():
    for preset in PRESETS.values():
        assert read_recipe(preset.dataset.recipe).scale_to_unit_sphere == preset.dataset.scale_to_unit_sphere


def test_every_file_reads_and_the_defaults_are_modelnets():
    assert set(recipe_names()) == {
        "scanobjectnn",
        "modelnet",
        "modelnet-cpu",
        "small-data",
        "segmentation",
        "regression",
    }
    assert read_recipe("modelnet-cpu").config["num_points"] == 256
    assert read_recipe("small-data").steps is not None
    published, default = read_recipe("modelnet").settings(), Recipe().settings()
    assert published.pop("augmentation")["scale"] == pytest.approx(default.pop("augmentation")["scale"])
    assert published.pop("warm_up_share") == pytest.approx(default.pop("warm_up_share"))
    assert published == default


@pytest.fixture
def write(tmp_path):
    def write(text):
        file = tmp_path / "own.yaml"
        file.write_text(text, encoding="utf-8")
        return file

    return write


def test_a_recipe_of_ones_own(write):
    recipe = read_recipe(
        write("epochs: 7\nprecision: bfloat16\naugmentation: {jitter: 0.01}\nconfig: {adapter_dim: 8}")
    )
    assert (recipe.epochs, recipe.precision, recipe.batch_size) == (7, "bfloat16", 32)
    assert recipe.augmentation == Augmentation(jitter=0.01)
    assert recipe.config == {"adapter_dim": 8}
    assert read_recipe(write("")) == Recipe()
    assert read_recipe(write("augmentation: {rotation_axis: none, mirror_axis: none}")) == Recipe()
    assert "mirror_axis" not in Recipe().settings()["augmentation"]  # earlier runs, which go on, recorded none
    assert read_recipe(write("augmentation: {mirror_axis: y}")).settings()["augmentation"]["mirror_axis"] == "y"


def test_changes():
    recipe = changed(Recipe(), epochs=3, batch_size=None)
    assert (recipe.epochs, recipe.batch_size) == (3, 32)


def test_augmentation_is_changed_field_by_field():
    recipe = changed(read_recipe("small-data"), augmentation={"shift": 0.3})
    assert recipe.augmentation == replace(read_recipe("small-data").augmentation, shift=0.3)
    with pytest.raises(ConfigurationError, match="shift must be finite and not negative, got -1"):
        changed(recipe, augmentation={"shift": -1.0})


@pytest.mark.parametrize(
    ("num_clouds", "per_epoch", "epochs"),
    [
        (160, 10, 60),  # divides
        (161, 11, 55),  # 54.5 rounded up
        (2, 1, 200),  # not 600
        (48, 3, 200),
        (49, 4, 150),
        (960, 60, 10),
        (976, 61, 10),  # 9.8 rounded up
        (5000, 313, 10),  # not 2
    ],
)
def test_epochs_by_steps(num_clouds, per_epoch, epochs):
    recipe = Recipe(steps=600, batch_size=16)
    assert recipe.steps_per_epoch(num_clouds) == per_epoch
    sized = recipe.sized(num_clouds)
    assert (sized.epochs, sized.steps, sized.batch_size) == (epochs, None, 16)
    assert sized.sized(17) == sized  # once
    assert "steps" not in sized.settings()
    assert recipe.settings()["steps"] == 600


def test_steps_are_those_in_which_weights_change():
    assert Recipe(steps=600, batch_size=8, gradient_accumulation=2).sized(160).epochs == 60


def test_epochs_that_are_asked_for_take_the_place_of_steps():
    recipe = changed(Recipe(steps=600), epochs=3)
    assert (recipe.epochs, recipe.steps, recipe.sized(160)) == (3, None, recipe)
    assert changed(recipe, steps=600, batch_size=16).sized(160).epochs == 60
    assert changed(Recipe(steps=600), epochs=None, batch_size=8).steps == 600


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("steps: 0", "steps must be positive, got 0"),
        ("steps: 1.5", "steps must be an integer, got 1.5"),
        ("steps: 10\nepochs: 2", "a recipe gives its length in epochs or in steps, got 'epochs, steps'"),
        ("epoch: 3", "a field must be one of epochs, .*got 'epoch'. Did you mean epochs?"),
        ("learning_rate: 5e-4", "learning_rate must be a number, got '5e-4'. YAML takes 5e-4 for a word: write 5.0e-4"),
        ("epochs: 0", "epochs must be positive and finite, got 0"),
        ("batch_size: 2.5", "batch_size must be an integer, got 2.5"),
        ("batch_size: 8.0", "batch_size must be an integer, got 8.0"),
        ("batch_size: .inf", "batch_size must be an integer, got inf"),
        ("gradient_accumulation: .nan", "gradient_accumulation must be an integer, got nan"),
        ("learning_rate: .nan", "learning_rate must be positive and finite, got nan"),
        ("config: {backbone: foo}", "fields of Any2PointConfig other than the backbone's, got 'backbone'"),
        ("batch_size: true", "batch_size must be an integer, got True"),
        ("scale_to_unit_sphere: 1", "scale_to_unit_sphere must be true or false, got 1"),
        ("precision: half", "precision must be one of float32, bfloat16, float16, got 'half'"),
        ("warm_up_share: 1.0", r"warm_up_share must lie in \[0, 1\), got 1.0"),
        ("surplus_points: 0.5", "surplus_points must be at least 1, got 0.5"),
        ("weight_decay: -1.0", "weight_decay must be finite, not negative, got -1.0"),
        ("augmentation: {scale: 2}", r"scale must be \[lowest, highest\], two numbers, got 2"),
        ("augmentation: {scale: [2, 1]}", "low to high, got 2 to 1"),
        ("augmentation: {rotate: z}", "a field must be one of scale, shift, .*got 'rotate'"),
        ("augmentation: [1]", r"augmentation must be a mapping of names to values, got \[1\]"),
        ("config: {adapter_size: 8}", "config must hold fields of Any2PointConfig .*, got 'adapter_size'"),
        ("config: 3", "config must be a mapping of names to values, got 3"),
        ("- 1", r"a recipe must be a mapping of names to values, got \[1\]"),
        ("epochs: [", "own.yaml must be YAML: "),
    ],
)
def test_wrong_files(write, text, rule):
    with pytest.raises(ConfigurationError, match=rule) as error:
        read_recipe(write(text))
    assert "own.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_recipes_that_are_not_there(tmp_path):
    with pytest.raises(
        ConfigurationError, match=r"one of modelnet, modelnet-cpu, .*got 'modelnt'. Did you mean modelnet"
    ):
        read_recipe("modelnt")
    with pytest.raises(ConfigurationError, match=r"an existing file, got .*none\.yaml"):
        read_recipe(tmp_path / "none.yaml")
