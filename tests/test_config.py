from pathlib import Path

import pytest

from hemaseg.config import Recipe, RunConfig, StudyConfig, parse_config, read_config, write_config
from hemaseg.errors import ConfigError

REPOSITORY = Path(__file__).resolve().parents[1]
RECIPES = [
    p
    for p in REPOSITORY.glob("configs/**/*.toml")
    if p.stem.startswith(("paper", "recommended")) or p.parent.name == "weights"
]
STUDIES = [p for p in REPOSITORY.glob("configs/**/*.toml") if p not in RECIPES]


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_shipped_recipes_are_valid(path: Path) -> None:
    read_config(path, Recipe)


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_shipped_studies_are_valid_and_find_their_recipes(path: Path) -> None:
    for arm in read_config(path, StudyConfig).arms:
        read_config(path.parent / arm.recipe, Recipe)


def test_paper_recipe_is_the_papers() -> None:
    recipe = read_config(REPOSITORY / "configs/paper.toml", Recipe)
    assert recipe.loss.name == "dice"
    assert recipe.optimiser.name == "adam"
    assert recipe.optimiser.learning_rate == 0.001
    assert recipe.schedule.factor**2 == pytest.approx(0.1)
    assert recipe.training.batch_size == 8
    assert recipe.slices.image_size == 256
    assert recipe.slices.negative_share == 0
    assert recipe.augmentation == type(recipe.augmentation)()


def test_written_config_reads_back(tmp_path: Path) -> None:
    recipe = read_config(REPOSITORY / "configs/recommended.toml", Recipe)
    config = RunConfig.model_validate(
        {"model": {"name": "unet", "options": {"base_width": 8}}, "recipe": recipe.model_dump()}
    )
    write_config(config, tmp_path / "config.toml")
    assert read_config(tmp_path / "config.toml", RunConfig) == config


def refused(content: dict[str, object], kind: type = Recipe) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config({"description": "x", **content}, kind, source="r.toml")
    return str(caught.value)


def test_unknown_key_names_the_nearest() -> None:
    message = refused({"optimiser": {"learning_rat": 1}})
    assert (
        message == 'r.toml: key "optimiser.learning_rat" is unknown, did you mean "learning_rate"?'
    )


def test_unknown_key_without_a_neighbour_lists_the_known() -> None:
    assert "known keys: name, smoothing" in refused({"loss": {"zzz": 1}})


def test_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match='key "description" is missing'):
        parse_config({}, Recipe, source="r.toml")


def test_bad_value_is_shown() -> None:
    assert "training.batch_size is 0:" in refused({"training": {"batch_size": 0}})
    assert "optimiser.learning_rate is nan:" in refused(
        {"optimiser": {"learning_rate": float("nan")}}
    )


@pytest.mark.parametrize("number", ["0.01", "1_0", True])
def test_only_numbers_are_numbers(number: object) -> None:
    assert f"optimiser.learning_rate is {number!r}: input should be a valid number" in refused(
        {"optimiser": {"learning_rate": number}}
    )
    assert f"training.num_epochs is {number!r}: input should be a valid integer" in refused(
        {"training": {"num_epochs": number}}
    )
    assert f"intensity.window_hu.1 is {number!r}: input should be a valid number" in refused(
        {"intensity": {"window_hu": [0, number]}}
    )


def test_reversed_window_is_refused() -> None:
    assert "window_hu is [100.0, 30.0], expected the lower end first" in refused(
        {"intensity": {"window_hu": [100, 30]}}
    )


def test_percentiles_out_of_range_are_refused() -> None:
    assert "percentiles are [-1.0, 99.0], expected within 0..100" in refused(
        {"intensity": {"percentiles": [-1, 99]}}
    )


def study(**changes: object) -> dict[str, object]:
    arms = [{"name": name, "model": "unet", "recipe": "r.toml"} for name in ("a", "b")]
    return {"name": "s", "cohort": "c.csv", "arms": arms, **changes}


def test_two_arms_of_one_name_are_refused() -> None:
    arm = {"name": "a", "model": "unet", "recipe": "r.toml"}
    assert "arms a stand twice, expected each once" in refused(study(arms=[arm, arm]), StudyConfig)


def test_repeated_seed_is_refused() -> None:
    assert "seeds 3 stand twice" in refused(study(seeds=[3, 3]), StudyConfig)


def test_pairs_of_unknown_arms_are_refused() -> None:
    message = refused(study(comparison={"pairs": [["a", "c"]]}), StudyConfig)
    assert "comparison.pairs name c, expected arms: a, b" in message


@pytest.mark.parametrize("pairs", [[["a", "a"]], [["a", "b"], ["b", "a"]]])
def test_pairs_of_one_arm_or_twice_are_refused(pairs: list[list[str]]) -> None:
    message = refused(study(comparison={"pairs": pairs}), StudyConfig)
    assert "expected two different arms in each, and each pair once" in message


def test_arm_name_that_is_no_folder_name_is_refused() -> None:
    arm = {"name": "../a", "model": "unet", "recipe": "r.toml"}
    assert "arms.0.name is '../a'" in refused(study(arms=[arm]), StudyConfig)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: no such file"):
        read_config(tmp_path / "none.toml", Recipe)


def test_folder_in_place_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read as text"):
        read_config(tmp_path, Recipe)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    path, paper = tmp_path / "r.toml", REPOSITORY / "configs/paper.toml"
    path.write_bytes(b"\xef\xbb\xbf" + paper.read_bytes())
    assert read_config(path, Recipe) == read_config(paper, Recipe)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a = = 3", "Invalid value"),
        # What Python itself gives up on, and tomllib passes on.
        ("a = " + "9" * 5000, "Exceeds the limit"),
        ("a = " + "[" * 100_000, "nested beyond any use"),
    ],
)
def test_text_that_is_not_toml(tmp_path: Path, text: str, found: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"r\.toml: not valid TOML: {found}"):
        read_config(path, Recipe)
